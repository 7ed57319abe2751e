"""How long a run is, as Lightning counts it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytorch_lightning as pl

from detfuse.errors import InputError
from detfuse.training.datamodule import TrainingData


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        epochs: the last one may be cut short.
        passes: training batches that each process sees.
        steps: optimizer steps.
        batch: images per optimizer step: of whole ones, or of the only one that an epoch has.
    """

    epochs: int
    passes: int
    steps: int
    batch: int


def run_length(trainer: pl.Trainer, data: TrainingData) -> Length:
    """The length of a whole run, for each of its processes.

    Not ``trainer.estimated_stepping_batches``: it builds the loader early and so drops its state on resume
    (Lightning issue 20550).
    """
    return length_of(
        data.train_batches_per_epoch(trainer.world_size),
        data.images_per_batch(trainer.world_size),
        limit=trainer.limit_train_batches,
        accumulate=trainer.accumulate_grad_batches,
        max_epochs=-1 if trainer.max_epochs is None else trainer.max_epochs,
        max_steps=trainer.max_steps,
    )


def length_of(
    batches: int,
    images: int,
    *,
    limit: int | float,
    accumulate: int,
    max_epochs: int,
    max_steps: int,
) -> Length:
    """The length of a run.

    Args:
        batches: of an epoch, of each process.
        images: in the first of them, of all processes together.
        limit: ``trainer.limit_train_batches``: a number of batches, or a fraction of them as a float.
        accumulate: ``trainer.accumulate_grad_batches``; an epoch's last step may have fewer.
        max_epochs: ``trainer.max_epochs``; -1 for no limit.
        max_steps: ``trainer.max_steps``; likewise.

    Raises:
        InputError: if it has no end.
    """
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    per_epoch = math.ceil(batches / accumulate)
    by_epochs = max_epochs * per_epoch if max_epochs >= 0 else math.inf
    steps = min(by_epochs, max_steps if max_steps >= 0 else math.inf) if per_epoch else 0
    if steps == math.inf:
        raise InputError("a run needs an end: set trainer.max_epochs or trainer.max_steps")
    whole, rest = divmod(int(steps), max(per_epoch, 1))
    return Length(
        epochs=whole + bool(rest),
        passes=whole * batches + rest * accumulate,
        steps=int(steps),
        batch=images * min(accumulate, max(batches, 1)),
    )
