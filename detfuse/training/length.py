"""How long a run is, as Lightning counts it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from detfuse.errors import InputError


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        epochs: the last one may be cut short.
        passes: training batches that each process sees.
        steps: optimizer steps.
        batch: images per optimizer step.
    """

    epochs: int
    passes: int
    steps: int
    batch: int


def length_of(
    batches: int,
    batch_size: int,
    processes: int,
    *,
    limit: int | float,
    accumulate: int,
    max_epochs: int,
    max_steps: int,
) -> Length:
    """The length of a run.

    Args:
        batches: of an epoch, of each process.
        batch_size: images in each.
        processes: that train together.
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
        batch=batch_size * processes * accumulate,
    )
