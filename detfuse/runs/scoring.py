"""The numbers of a checkpoint: the one way to them, so that all commands tell the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning import Trainer

from detfuse.annotations import Results
from detfuse.build import Parts, build_combine, is_to_be_fitted
from detfuse.data import DetectionDataModule
from detfuse.errors import UserError
from detfuse.evaluation import write_results
from detfuse.evaluation.coco import coco_results
from detfuse.evaluation.metrics import CocoMetrics
from detfuse.files.run_files import CALIBRATION, METRICS, PREDICTIONS
from detfuse.files.text import write_json
from detfuse.ops.calibration import Line
from detfuse.runs.candidates import Candidates, candidates_of, key_of, lines_of, read_candidates, write_candidates
from detfuse.structures import Batch, ImageId
from detfuse.training.datamodule import LightningData
from detfuse.training.device import compute_device
from detfuse.training.module import told
from detfuse.weights.checkpoint import Checkpoint, load_weights
from detfuse.words import some


class Validation(NamedTuple):
    """What came of a validation, on every process.

    Attributes:
        metrics: the numbers.
        predictions: what was detected.
        lines: (slope, offset) of every level, if they were fitted for it.
    """

    metrics: CocoMetrics
    predictions: Results
    lines: list[Line] | None


def score(trainer: Trainer, parts: Parts, checkpoint: Checkpoint) -> Validation:
    """Evaluate a checkpoint on the validation split.

    Raises:
        UserError: if the data set has other categories than the checkpoint, or the outputs are finite in no image.
    """
    _require_same_categories(parts, checkpoint)
    load_weights(parts.detector, checkpoint)
    lines = _calibrate(parts, checkpoint, None)
    trainer.validate(parts.module, datamodule=LightningData(parts.data), verbose=False)
    metrics, predictions = parts.module.metrics, parts.module.predictions
    assert metrics is not None
    assert predictions is not None
    return Validation(metrics, predictions, lines)


def score_candidates(parts: Parts, checkpoint: Checkpoint, file: Path) -> Validation:
    """The numbers of :func:`score` by the candidates in a file; where there is none yet, it is written.

    Those that a calibration is fitted to lie in a file beside it.

    Raises:
        UserError: likewise, and if the file holds something else.
    """
    _require_same_categories(parts, checkpoint)
    load_weights(parts.detector, checkpoint)
    module, trainer = parts.module, parts.module.config["trainer"]
    lines = _calibrate(parts, checkpoint, file.with_name(f"{file.stem}_held_back{file.suffix}"))
    candidates = _candidates(parts, checkpoint, parts.data.val_dataloader(), parts.data.ground_truth("val").ids, file)
    detections = candidates.combined(module.combine, compute_device(trainer["accelerator"], trainer["devices"]))
    numbered = Results.joined([coco_results(detections, module.categories)])
    predictions = told(numbered, module.image_id_of, str(trainer["precision"]))
    assert module.evaluator is not None
    return Validation(module.evaluator.evaluate(predictions), predictions, lines)


def require_one_process(trainer: Trainer, config: Mapping[str, Any], asked: object = None) -> None:
    """Candidates are kept, and a calibration is fitted, by a single process.

    Args:
        trainer: of the run.
        config: plain and resolved.
        asked: the file that was asked for, if one was.

    Raises:
        UserError: naming the setting.
    """
    if trainer.world_size > 1 and (asked or is_to_be_fitted(config)):
        what = f"candidates={asked}" if asked else "combine.calibration=platt"
        raise UserError(f"{what}: one process does that; evaluate the checkpoint by one, without trainer.devices")


def _calibrate(parts: Parts, checkpoint: Checkpoint, file: Path | None) -> list[Line] | None:
    """Fit the calibration that the configuration asks for; the module combines by it from here on."""
    config, data = parts.module.config, parts.data
    if not is_to_be_fitted(config):
        return None
    loader, index = data.held_back_dataloader(), data.held_back
    assert index is not None
    candidates = _candidates(parts, checkpoint, loader, index.ids, file)
    lines = lines_of(candidates, index, len(parts.detector.neck.out_spec))
    parts.module.combine = build_combine({**config, "combine": {**config["combine"], "calibration": lines}})
    return lines


def _candidates(
    parts: Parts, checkpoint: Checkpoint, loader: Iterable[Batch], images: Sequence[ImageId], file: Path | None
) -> Candidates:
    config = parts.module.config
    if file is None:
        return candidates_of(parts.detector, config, loader)
    key = key_of(checkpoint.path, config, images)
    if not file.is_file():
        write_candidates(file, candidates_of(parts.detector, config, loader), key)
    return read_candidates(file, key)


def _require_same_categories(parts: Parts, checkpoint: Checkpoint) -> None:
    if parts.classes != checkpoint.categories:
        ours, theirs = parts.classes, checkpoint.categories
        raise UserError(
            f"{checkpoint.path} was trained on the categories {_with_ids(theirs.names, theirs.ids)}; "
            f"the data set has {_with_ids(ours.names, ours.ids)}"
        )


def _with_ids(names: tuple[str, ...], ids: tuple[int, ...]) -> str:
    return some([f"{name} (id {i})" for name, i in zip(names, ids, strict=True)], 20)


def report(scored: Validation, folder: Path, data: DetectionDataModule, checkpoint: Path) -> None:
    """Print the 12 numbers and of what they are; write them, the predictions and what was fitted for them.

    Args:
        scored: what came of a validation.
        folder: where it is written.
        data: whose validation split it was.
        checkpoint: the file that was scored.
    """
    index = data.indexes["val"]
    scored_of = {"checkpoint": str(checkpoint), "annotations": str(index.source), "images": str(index.root)}
    print(f"\n{scored.metrics.table()}\n")
    print(*(f"{what}: {where}" for what, where in scored_of.items()), sep="\n")
    write_json(folder / METRICS, {**scored_of, **scored.metrics.as_dict()})
    write_results(folder / PREDICTIONS, scored.predictions)
    if scored.lines is not None:
        lines = [[round(number, 4) for number in line] for line in scored.lines]
        print(f"calibration, by the images held back: combine.calibration={json.dumps(lines, separators=(',', ':'))}")
        write_json(folder / CALIBRATION, {"calibration": scored.lines})
