"""The numbers of a checkpoint: the one way to them, so that all commands tell the same."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pytorch_lightning import Trainer

from detfuse.annotations import Results
from detfuse.build import Parts
from detfuse.errors import UserError
from detfuse.evaluation import write_results
from detfuse.evaluation.coco import coco_results
from detfuse.evaluation.metrics import CocoMetrics
from detfuse.files.run_files import METRICS, PREDICTIONS
from detfuse.files.text import write_json
from detfuse.runs.candidates import candidates_of, key_of, read_candidates, write_candidates
from detfuse.training.datamodule import LightningData
from detfuse.training.device import compute_device
from detfuse.training.module import told
from detfuse.weights.checkpoint import Checkpoint, load_weights
from detfuse.words import some


class Scored(NamedTuple):
    """What came of a validation, on every process."""

    metrics: CocoMetrics
    predictions: Results


def score(trainer: Trainer, parts: Parts, checkpoint: Checkpoint) -> Scored:
    """Evaluate a checkpoint on the validation split.

    Raises:
        UserError: if the data set has other categories than the checkpoint, or the outputs are finite in no image.
    """
    _require_same_categories(parts, checkpoint)
    load_weights(parts.detector, checkpoint)
    trainer.validate(parts.module, datamodule=LightningData(parts.data), verbose=False)
    metrics, predictions = parts.module.metrics, parts.module.predictions
    assert metrics is not None
    assert predictions is not None
    return Scored(metrics, predictions)


def score_candidates(parts: Parts, checkpoint: Checkpoint, file: Path) -> Scored:
    """The numbers of :func:`score` by the candidates in a file; where there is none yet, it is written.

    Raises:
        UserError: likewise, and if the file holds something else.
    """
    _require_same_categories(parts, checkpoint)
    module, config = parts.module, parts.module.config
    key = key_of(checkpoint.path, config, parts.data.ground_truth("val").ids)
    if file.is_file():
        candidates = read_candidates(file, key)
    else:
        load_weights(parts.detector, checkpoint)
        candidates = candidates_of(parts.detector, config, parts.data.val_dataloader())
        write_candidates(file, candidates, key)
    trainer = config["trainer"]
    detections = candidates.combined(module.combine, compute_device(trainer["accelerator"], trainer["devices"]))
    numbered = Results.joined([coco_results(detections, module.categories)])
    predictions = told(numbered, module.image_id_of, str(trainer["precision"]))
    assert module.evaluator is not None
    return Scored(module.evaluator.evaluate(predictions), predictions)


def _require_same_categories(parts: Parts, checkpoint: Checkpoint) -> None:
    if parts.data.categories != checkpoint.categories:
        ours, theirs = parts.data.categories, checkpoint.categories
        raise UserError(
            f"{checkpoint.path} was trained on the categories {_with_ids(theirs.names, theirs.ids)}; "
            f"the data set has {_with_ids(ours.names, ours.ids)}"
        )


def _with_ids(names: tuple[str, ...], ids: tuple[int, ...]) -> str:
    return some([f"{name} (id {i})" for name, i in zip(names, ids, strict=True)], 20)


def report(scored: Scored, folder: Path) -> None:
    """Print the 12 numbers; write them and the predictions into a folder."""
    print(f"\n{scored.metrics.table()}\n")
    write_json(folder / METRICS, scored.metrics.as_dict())
    write_results(folder / PREDICTIONS, scored.predictions)
