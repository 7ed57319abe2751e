"""What a detector gets wrong, and what each kind of error costs.

Source: "TIDE: A General Toolbox for Identifying Object Detection Errors" (Bolya et al. 2020, arXiv 2008.08115), as
hotcoco computes it: at IoU .5, an overlap below .1 is background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detfuse.evaluation.columns import ground_truth_columns, prediction_columns
from detfuse.evaluation.engines import hotcoco_evaluation

_NAMES = {
    "classification": "Cls",
    "localisation": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
}
ERROR_TYPES = tuple(_NAMES)


@dataclass(frozen=True)
class Errors:
    """The errors of one set of predictions.

    Attributes:
        cost: error type -> AP50 (a fraction) that would be gained if all errors of this type were put right; None where
            that is undefined, because there is nothing to find.
        count: error type -> how many there are.
    """

    cost: dict[str, float | None]
    count: dict[str, int]


def error_types(ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> Errors:
    """Sort the errors of predictions by type.

    The costs do not add up to what is missing to 1: putting one error right may hide another.

    Args:
        ground_truth: a data set in COCO's json form.
        predictions: COCO result rows.

    Raises:
        ValueError: if the predictions do not belong to the ground truth, or a record is broken.
    """
    truth = ground_truth_columns(ground_truth)
    found = hotcoco_evaluation(truth, prediction_columns(predictions, truth)).tide_errors()
    defined = not truth.crowd.all()  # true of no annotations at all, too
    return Errors(
        cost={name: float(found["delta_ap"][key]) if defined else None for name, key in _NAMES.items()},
        count={name: int(found["counts"][key]) for name, key in _NAMES.items()},
    )
