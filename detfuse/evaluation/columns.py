"""Ground truth and predictions as checked arrays: what both COCO engines are fed.

Image and category ids become ranks (1, 2, ... in ascending order of the original ids) and annotations are renumbered
from 1. Neither changes a result, as the engines go through images and categories in ascending order, and it removes
known traps: an annotation with id 0 counts as unmatched in pycocotools (AP 0), ids may be strings, negative, or beyond
the integers that a float64 holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detfuse.errors import InputError
from detfuse.structures import Categories

Row = Mapping[str, Any]
SHOWN = 5  # how many offenders an error names


@dataclass(frozen=True)
class GroundTruthColumns:
    """Annotations of a data set.

    Attributes:
        image_ids: original ids, ascending; the rank of an image is its position here plus 1.
        categories: original ids, ascending, and names.
        image: (N,) rank of each annotation's image.
        category: (N,) rank of each annotation's category.
        boxes: (N, 4) xywh pixels.
        area: (N,) square pixels; decides small, medium or large.
        crowd: (N,) bool; detections on crowds count neither as right nor as wrong.
    """

    image_ids: tuple[Any, ...]
    categories: Categories
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    boxes: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True)
class PredictionColumns:
    """Predictions, in the order given: image and category ranks (N,), boxes (N, 4) xywh pixels, scores (N,)."""

    image: NDArray[np.int64]
    category: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]


def ground_truth_columns(ground_truth: Mapping[str, Any]) -> GroundTruthColumns:
    """Check a data set in COCO's json form and turn it into columns; the input is not changed.

    Args:
        ground_truth: ``images`` with ``id``; ``categories`` with ``id`` and ``name``; ``annotations`` with ``id``,
            ``image_id``, ``category_id``, ``bbox`` (xywh), ``area`` (default w * h), ``iscrowd`` (default 0). All else
            is ignored, ``ignore`` too (as pycocotools does).

    Raises:
        ValueError: if a part or a key is missing, an id appears twice, an annotation names an unknown image or
            category, or a number is not finite or a size negative. The message names the records.
    """
    for part in ("images", "categories", "annotations"):
        if part not in ground_truth:
            raise InputError(f"ground truth: '{part}' is missing (expected images, categories and annotations)")
    images: Sequence[Row] = ground_truth["images"]
    annotations: Sequence[Row] = ground_truth["annotations"]
    if not images:
        raise InputError("ground truth: 'images' is empty, there is nothing to evaluate")
    image_ids = _sorted_ids(_values(images, "id", "image"), "image")
    categories = _categories(ground_truth["categories"])

    ids = _values(annotations, "id", "annotation")
    _refuse_duplicates(ids, "annotation")

    def label(index: int) -> str:
        return f"annotation {ids[index]!r}"

    boxes = _boxes(_values(annotations, "bbox", "annotation"), label)
    areas = [a.get("area", box[2] * box[3]) for a, box in zip(annotations, boxes, strict=True)]
    area = _numbers(areas, "area", label)
    bad = ~np.isfinite(area) | (area < 0)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{label(first)}: area is {area[first]}, expected a finite number of square pixels, at least 0"
        )
    return GroundTruthColumns(
        image_ids=image_ids,
        categories=categories,
        image=_ranks(_values(annotations, "image_id", "annotation"), image_ids, "image", label),
        category=_ranks(_values(annotations, "category_id", "annotation"), categories.ids, "category", label),
        boxes=boxes,
        area=area,
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], np.bool_),
    )


def prediction_columns(predictions: Sequence[Row], ground_truth: GroundTruthColumns) -> PredictionColumns:
    """Check COCO result rows and turn them into columns; the input is not changed.

    Args:
        predictions: rows with ``image_id``, ``category_id``, ``bbox`` (xywh) and ``score``; may be empty.
        ground_truth: the data set whose ids the rows use.

    Raises:
        ValueError: if a key is missing, a row names an image or a category that the ground truth lacks, a box or a
            score is not finite, or a width or height is negative. The message names the rows.
    """

    def label(index: int) -> str:
        return f"prediction row {index}"

    image_ids = _values(predictions, "image_id", "prediction row")
    category_ids = _values(predictions, "category_id", "prediction row")
    boxes = _boxes(_values(predictions, "bbox", "prediction row"), label)
    scores = _numbers(_values(predictions, "score", "prediction row"), "score", label)
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        where = f"{label(bad[0])} (image {image_ids[bad[0]]})"
        raise InputError(
            f"{where}: score is {scores[bad[0]]}, expected a finite number ({bad.size} such rows); "
            "the model has probably diverged"
        )
    return PredictionColumns(
        image=_ranks(image_ids, ground_truth.image_ids, "image", label),
        category=_ranks(category_ids, ground_truth.categories.ids, "category", label),
        boxes=boxes,
        scores=scores,
    )


def _values(rows: Sequence[Row], key: str, what: str) -> list[Any]:
    wrong = next((i for i, row in enumerate(rows) if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise InputError(f"{what} {wrong}: expected an object, got {rows[wrong]!r:.60}")
    try:
        return [row[key] for row in rows]
    except KeyError:
        index = next(i for i, row in enumerate(rows) if key not in row)
        given = ", ".join(map(str, rows[index])) or "nothing"
        name = f"{what} {rows[index].get('id', index) if what != 'prediction row' else index}"
        raise InputError(f"{name}: '{key}' is missing (it has {given})") from None


def _numbers(values: list[Any], what: str, label: Callable[[int], str]) -> NDArray[np.float64]:
    """Numbers, or rows of as many; the message names the first that is none."""
    try:
        return np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):  # NumPy's, for text, null, an integer of hundreds of digits
        wrong = next(i for i, value in enumerate(values) if not _is_number(value))
        raise InputError(f"{label(wrong)}: {what} is {values[wrong]!r:.60}, expected numbers") from None


def _is_number(value: Any) -> bool:
    try:
        np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _boxes(values: list[Any], label: Callable[[int], str]) -> NDArray[np.float64]:
    """(N, 4) xywh; every message names the first offender."""
    if not values:
        return np.zeros((0, 4))
    wrong = next((i for i, v in enumerate(values) if not isinstance(v, Sequence) or len(v) != 4), None)
    if wrong is not None:
        raise InputError(f"{label(wrong)}: bbox is {values[wrong]}, expected four numbers x, y, width, height")
    boxes = _numbers(values, "bbox", label)
    bad = np.flatnonzero(~np.isfinite(boxes).all(1))
    if bad.size:
        raise InputError(
            f"{label(bad[0])}: bbox is {boxes[bad[0]].tolist()}, expected finite numbers ({bad.size} such boxes)"
        )
    bad = np.flatnonzero((boxes[:, 2:] < 0).any(1))
    if bad.size:
        raise InputError(
            f"{label(bad[0])}: bbox is {boxes[bad[0]].tolist()}, expected x, y, width, height with sizes of at "
            "least 0; are these corners (x1, y1, x2, y2)?"
        )
    return boxes


def _ranks(ids: list[Any], known: Sequence[Any], what: str, label: Callable[[int], str]) -> NDArray[np.int64]:
    """Position of each id in ``known``, plus 1."""
    rank = {value: i for i, value in enumerate(known, start=1)}
    unknown = [i for i, value in enumerate(ids) if not isinstance(value, Hashable) or value not in rank]
    if unknown:
        names = list(dict.fromkeys(repr(ids[i]) for i in unknown))
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        mixed = str(ids[unknown[0]]) in map(str, known)
        hint = "; the same id is written as text and as a number, use one kind" if mixed else ""
        raise InputError(
            f"{label(unknown[0])}: {what} id {', '.join(names[:SHOWN])}{more} is not in the ground truth "
            f"({len(unknown)} such rows; the ground truth has {len(known)} ids, such as {known[0]!r}){hint}"
        )
    return np.array([rank[value] for value in ids], np.int64)


def _refuse_duplicates(ids: list[Any], what: str) -> None:
    wrong = [value for value in ids if not isinstance(value, str | Real)]
    if wrong:
        raise InputError(f"ground truth: {what} id {wrong[0]!r:.60} is neither text nor a number")
    twice = [repr(value) for value, count in Counter(ids).items() if count > 1]
    if twice:
        more = f" and {len(twice) - SHOWN} more" if len(twice) > SHOWN else ""
        raise InputError(f"ground truth: {what} id given twice: {', '.join(twice[:SHOWN])}{more}; ids must be unique")


def _sorted_ids(ids: list[Any], what: str) -> tuple[Any, ...]:
    _refuse_duplicates(ids, what)
    kinds = {isinstance(value, str) for value in ids}
    if len(kinds) > 1:
        raise InputError(f"ground truth: some {what} ids are text and some are numbers; use one kind")
    return tuple(sorted(ids))


def _categories(rows: Sequence[Row]) -> Categories:
    if not rows:
        raise InputError("ground truth: 'categories' is empty, there is nothing to evaluate")
    names = dict(zip(_values(rows, "id", "category"), _values(rows, "name", "category"), strict=True))
    ids = _sorted_ids([row["id"] for row in rows], "category")
    return Categories(ids, tuple(str(names[i]) for i in ids))
