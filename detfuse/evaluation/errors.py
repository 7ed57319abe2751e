"""What a detector gets wrong, and what each kind of error costs.

Source: "TIDE: A General Toolbox for Identifying Object Detection Errors" (Bolya et al. 2020, arXiv 2008.08115), as
hotcoco computes it: at IoU .5, an overlap below .1 is background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detfuse.annotations import Annotations, Results
from detfuse.evaluation.engines import hotcoco_evaluation
from detfuse.evaluation.ground_truth import annotations_of
from detfuse.evaluation.results import matched_ids, results_of
from detfuse.evaluation.rows import Row

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


def error_types(ground_truth: Annotations | Mapping[str, Any], predictions: Results | Sequence[Row]) -> Errors | None:
    """Sort the errors of predictions by type; None where hotcoco, which does it, is not installed.

    The costs do not add up to what is missing to 1: putting one error right may hide another.

    Args:
        ground_truth: a data set, as :class:`detfuse.evaluation.CocoEvaluator` takes it.
        predictions: its results, likewise.

    Raises:
        ValueError: if the predictions do not belong to the ground truth, or a record is broken.
    """
    truth = annotations_of(ground_truth)
    results = matched_ids(results_of(predictions), truth)
    try:
        found = hotcoco_evaluation(truth, results).tide_errors()
    except ModuleNotFoundError:
        return None
    defined = bool(truth.counted.any())  # false of no annotations at all, too
    return Errors(
        cost={name: float(found["delta_ap"][key]) if defined else None for name, key in _NAMES.items()},
        count={name: int(found["counts"][key]) for name, key in _NAMES.items()},
    )
