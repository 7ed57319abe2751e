"""The numbers of a checkpoint: the one way to them, so that all commands tell the same."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer

from detfuse.build import Parts
from detfuse.errors import UserError
from detfuse.evaluation import write_results
from detfuse.files.run_files import METRICS, PREDICTIONS
from detfuse.files.text import write_json
from detfuse.training.datamodule import LightningData
from detfuse.training.module import DetectionModule
from detfuse.weights.checkpoint import Checkpoint, load_weights
from detfuse.words import some


def score(trainer: Trainer, parts: Parts, checkpoint: Checkpoint) -> DetectionModule:
    """Evaluate a checkpoint on the validation split.

    Raises:
        UserError: if the data set has other categories than the checkpoint, or the outputs are finite in no image.
    """
    if parts.data.categories != checkpoint.categories:
        ours, theirs = parts.data.categories, checkpoint.categories
        raise UserError(
            f"{checkpoint.path} was trained on the categories {_with_ids(theirs.names, theirs.ids)}; "
            f"the data set has {_with_ids(ours.names, ours.ids)}"
        )
    load_weights(parts.detector, checkpoint)
    trainer.validate(parts.module, datamodule=LightningData(parts.data), verbose=False)
    return parts.module


def _with_ids(names: tuple[str, ...], ids: tuple[int, ...]) -> str:
    return some([f"{name} (id {i})" for name, i in zip(names, ids, strict=True)], 20)


def report(module: DetectionModule, folder: Path) -> None:
    """Print the 12 numbers; write them and the predictions into a folder."""
    assert module.metrics is not None
    assert module.predictions is not None
    print(f"\n{module.metrics.table()}\n")
    write_json(folder / METRICS, module.metrics.as_dict())
    write_results(folder / PREDICTIONS, module.predictions)
