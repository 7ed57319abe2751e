"""A ground truth in COCO's json form, as whoever compares results has it: only what scoring needs.

(:mod:`detfuse.data` reads such files for training, which asks more of them.) Ids may be texts, negative, or beyond the
integers that a float64 holds: engines only see positions. That removes known traps of theirs, too: an annotation with
id 0 counts as unmatched in pycocotools (AP 0).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from detfuse.annotations import MOST_AREA, Annotations, offsets_of
from detfuse.errors import InputError
from detfuse.evaluation.rows import SHOWN, Row, check_boxes, numbers_of, positions_of, read_json, value_of
from detfuse.structures import Categories


def read_annotations(path: Path) -> Annotations:
    """Read COCO's ground truth from a file, see :func:`annotations_of`.

    Raises:
        ValueError: naming the file.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected COCO annotations (images, categories, annotations), got a list")
    try:
        return annotations_of(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def annotations_of(ground_truth: Annotations | Mapping[str, Any]) -> Annotations:
    """A ground truth as columns, with the images in ascending order of their ids; the input is not changed.

    Args:
        ground_truth: columns, which are checked already, or a data set in COCO's json form: ``images`` with ``id``;
            ``categories`` with ``id`` and ``name``; ``annotations`` with ``id``, ``image_id``, ``category_id``,
            ``bbox`` (xywh), ``area`` (default w * h), ``iscrowd`` (default 0). All else is ignored, ``ignore`` too (as
            pycocotools does).

    Raises:
        ValueError: if a part or a key is missing, an id appears twice, an annotation names an unknown image or
            category, or a number is not finite or a size negative. The message names the records.
    """
    if isinstance(ground_truth, Annotations):
        return ground_truth.by_id()
    for part in ("images", "categories", "annotations"):
        if not isinstance(ground_truth.get(part), Sequence):
            problem = "is no list" if part in ground_truth else "is missing"
            raise InputError(f"ground truth: '{part}' {problem} (expected images, categories and annotations)")
    ids = _sorted_ids(_ids(ground_truth["images"], "image"), "image")
    categories = _categories(ground_truth["categories"])
    records: Sequence[Row] = ground_truth["annotations"]
    numbers_given = _ids(records, "annotation")
    _refuse_duplicates(numbers_given, "annotation")

    def named(index: int) -> str:
        return f"annotation {numbers_given[index]!r}"

    columns = array("d")
    for index, record in enumerate(records):
        numbers = numbers_of(record, "area", record.get("area", 0.0), named(index))
        if "area" not in record:
            numbers[4] = numbers[2] * numbers[3]
        if record.get("iscrowd") not in (None, 0, 1):
            raise InputError(f"{named(index)}: iscrowd must be 0 or 1, got {record['iscrowd']!r:.60}")
        columns.extend(numbers)
    values = np.array(columns, np.float64).reshape(-1, 5)
    check_boxes(values[:, :4], named)
    far = np.flatnonzero((np.abs(values[:, :4]) > MOST_AREA).any(1))
    if far.size:
        raise InputError(f"{named(far[0])}: bbox is {values[far[0], :4].tolist()}, which lies in no image")
    bad = np.flatnonzero(~((values[:, 4] >= 0) & (values[:, 4] <= MOST_AREA)))
    if bad.size:
        raise InputError(
            f"{named(bad[0])}: area is {values[bad[0], 4]}, expected square pixels of an object, 0 to {MOST_AREA:g}"
        )

    def positions(what: str, known: Sequence[Any]) -> Any:
        given = [value_of(record, f"{what}_id", named(index)) for index, record in enumerate(records)]
        return positions_of(given, known, what, named)

    images, labels = positions("image", ids), positions("category", categories.ids)
    order = np.argsort(images, kind="stable")  # engines break ties by the order within an image
    return Annotations(
        ids=ids,
        categories=categories,
        offsets=offsets_of(np.bincount(images, minlength=len(ids))),
        boxes=values[order, :4],
        labels=labels[order],
        crowd=np.array([bool(record.get("iscrowd")) for record in records], np.bool_)[order],
        areas=values[order, 4],
    )


def _ids(records: Sequence[Row], what: str) -> list[Any]:
    return [value_of(record, "id", f"{what} {index}") for index, record in enumerate(records)]


def _refuse_duplicates(ids: list[Any], what: str) -> None:
    wrong = [value for value in ids if isinstance(value, bool) or not isinstance(value, str | Real) or value != value]
    if wrong:
        raise InputError(f"ground truth: {what} id {wrong[0]!r:.60} is neither text nor a number")
    twice = [repr(value) for value, count in Counter(ids).items() if count > 1]
    if twice:
        more = f" and {len(twice) - SHOWN} more" if len(twice) > SHOWN else ""
        raise InputError(f"ground truth: {what} id given twice: {', '.join(twice[:SHOWN])}{more}; ids must be unique")


def _sorted_ids(ids: list[Any], what: str) -> tuple[Any, ...]:
    if not ids:
        part = {"image": "images", "category": "categories"}[what]
        raise InputError(f"ground truth: '{part}' is empty, there is nothing to evaluate")
    _refuse_duplicates(ids, what)
    kinds = {isinstance(value, str) for value in ids}
    if len(kinds) > 1:
        raise InputError(f"ground truth: some {what} ids are text and some are numbers; use one kind")
    return tuple(sorted(ids))


def _categories(records: Sequence[Row]) -> Categories:
    given = _ids(records, "category")
    ids = _sorted_ids(given, "category")
    names = {number: value_of(row, "name", f"category {number}") for number, row in zip(given, records, strict=True)}
    return Categories(ids, tuple(str(names[number]) for number in ids))
