"""What is made of numbers that are not finite: a validation tells them or refuses, training stops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from detfuse.errors import UserError
from detfuse.structures import ImageId

_SHOWN = 10  # how many image ids a message names

Rows = Sequence[Mapping[str, Any]]
"""COCO results of one image, see :func:`detfuse.evaluation.coco.coco_results`."""


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


def finite_rows(of_images: Mapping[int, Rows], precision: str) -> list[Any]:
    """The rows of all images without those whose score is NaN, in ascending order of the image ids.

    Args:
        of_images: image id -> its rows, for every image that was validated.
        precision: what it was computed in, for the message.

    Warns:
        NonFiniteOutputWarning: once, if there are such rows in some of the images.

    Raises:
        NonFiniteOutputError: if there are such rows in every image.
    """
    rows = [row for image_id in sorted(of_images) for row in of_images[image_id]]
    finite = [row for row in rows if math.isfinite(row["score"])]
    if len(finite) == len(rows):
        return finite
    broken = sorted({row["image_id"] for row in rows if not math.isfinite(row["score"])})
    more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    told = (
        f"the detector's outputs are NaN or infinite in {len(broken)} of {len(of_images)} validation images (ids "
        f"{', '.join(map(str, broken[:_SHOWN]))}{more}), where it cannot detect. {_remedy(precision)}"
    )
    if len(broken) == len(of_images):
        raise NonFiniteOutputError(told)
    rank_zero_warn(
        f"{told}. The metrics count these images with what is left", category=NonFiniteOutputWarning, stacklevel=4
    )
    return finite


def _remedy(precision: str) -> str:
    if precision.startswith("16"):
        return f"Half precision overflows: trainer.precision=bf16-mixed or 32-true has room, {precision} has not"
    return (
        "The weights are diverging. Usual remedies: a lower optimizer.lr, a longer scheduler.warmup_steps, "
        "trainer.gradient_clip_val=10"
    )
