"""What a validation makes of outputs that are not finite: it tells, or refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from detfuse.errors import UserError

_SHOWN = 10  # how many image ids a message names

Rows = Sequence[Mapping[str, Any]]
"""COCO results of one image, see :func:`detfuse.evaluation.coco.coco_results`."""


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
