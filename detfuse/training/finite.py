"""What is made of numbers that are not finite: a validation tells them or refuses, training stops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn

from detfuse.annotations import Results
from detfuse.errors import UserError
from detfuse.structures import ImageId

_SHOWN = 10  # how many image ids a message names


class NonFiniteLossError(UserError, RuntimeError):
    """A loss term or the gradient is NaN or infinite: going on would only train and store NaN weights."""


def non_finite_loss(terms: Mapping[str, float], when: str, image_ids: Sequence[ImageId]) -> NonFiniteLossError:
    """The error of a step whose loss is not finite.

    Args:
        terms: name -> value.
        when: the step, for people.
        image_ids: of its batch.
    """
    bad = ", ".join(f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value))
    good = ", ".join(f"{name} = {value:.6g}" for name, value in terms.items() if math.isfinite(value))
    return NonFiniteLossError(
        f"{bad or f'the sum of {good} overflows'} at {when}, images {', '.join(map(repr, image_ids))}"
        + (f"; finite: {good}" if bad and good else "")
        + ". The weights of this step were not stored; the last good ones are in checkpoints/last.ckpt once an "
        "epoch is complete. Usual remedies: a lower optimizer.lr, a longer scheduler.warmup_steps, "
        "trainer.gradient_clip_val=10, trainer.precision=32-true; else look at these images' annotations."
    )


def non_finite_gradient(norm: float, when: str) -> NonFiniteLossError:
    """The error of a step whose gradient is not finite, though its loss is."""
    return NonFiniteLossError(
        f"the norm of the gradient is {norm} at {when}, though the loss is finite; the weights were not changed. Usual "
        "remedies: a lower optimizer.lr, a longer scheduler.warmup_steps, trainer.precision=32-true"
    )


class NonFiniteOutputError(UserError, RuntimeError):
    """A detector's outputs are not finite in any image: its metrics would say nothing."""


class NonFiniteOutputWarning(UserWarning):
    """A detector's outputs are not finite in some images, where it then detects nothing or too little."""


def finite_results(results: Results, precision: str) -> Results:
    """Results without the detections whose score is NaN.

    Args:
        results: with every image that was validated among their ids.
        precision: what they were computed in, for the message.

    Warns:
        NonFiniteOutputWarning: once, if there are such detections in some of the images.

    Raises:
        NonFiniteOutputError: if there are such detections in every image.
    """
    finite = np.isfinite(results.scores)
    if finite.all():
        return results
    broken = [results.ids[position] for position in np.unique(results.images[~finite])]
    more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    told = (
        f"the detector's outputs are NaN or infinite in {len(broken)} of {len(results.ids)} validation images (ids "
        f"{', '.join(map(str, broken[:_SHOWN]))}{more}), where it cannot detect. {_remedy(precision)}"
    )
    if len(broken) == len(results.ids):
        raise NonFiniteOutputError(told)
    rank_zero_warn(
        f"{told}. The metrics count these images with what is left", category=NonFiniteOutputWarning, stacklevel=4
    )
    return results.select(finite)


def _remedy(precision: str) -> str:
    if precision.startswith("16"):
        return f"Half precision overflows: trainer.precision=bf16-mixed or 32-true has room, {precision} has not"
    return (
        "The weights are diverging. Usual remedies: a lower optimizer.lr, a longer scheduler.warmup_steps, "
        "trainer.gradient_clip_val=10"
    )
