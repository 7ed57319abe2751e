"""COCO's json records to checked columns, and back: the only place where results meet JSON.

Ids may be texts, negative, or beyond the integers that a float64 holds: the engines only see positions. That removes
known traps of theirs, too: an annotation with id 0 counts as unmatched in pycocotools (AP 0).
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detfuse.annotations import Annotations, Results, offsets_of
from detfuse.errors import InputError
from detfuse.files.text import write_text
from detfuse.structures import Categories

Row = Mapping[str, Any]
SHOWN = 5  # how many offenders an error names
_KEYS = ("image_id", "category_id", "bbox", "score")


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
        if part not in ground_truth:
            raise InputError(f"ground truth: '{part}' is missing (expected images, categories and annotations)")
    images: Sequence[Row] = ground_truth["images"]
    records: Sequence[Row] = ground_truth["annotations"]
    if not images:
        raise InputError("ground truth: 'images' is empty, there is nothing to evaluate")
    image_ids = _sorted_ids(_values(images, "id", "image"), "image")
    categories = _categories(ground_truth["categories"])

    ids = _values(records, "id", "annotation")
    _refuse_duplicates(ids, "annotation")

    def label(index: int) -> str:
        return f"annotation {ids[index]!r}"

    boxes = _boxes(_values(records, "bbox", "annotation"), label)
    areas = _numbers([a.get("area", box[2] * box[3]) for a, box in zip(records, boxes, strict=True)], "area", label)
    bad = np.flatnonzero(~np.isfinite(areas) | (areas < 0))
    if bad.size:
        raise InputError(
            f"{label(bad[0])}: area is {areas[bad[0]]}, expected a finite number of square pixels, at least 0"
        )
    image = _positions(_values(records, "image_id", "annotation"), image_ids, "image", label)
    category = _positions(_values(records, "category_id", "annotation"), categories.ids, "category", label)
    order = np.argsort(image, kind="stable")  # engines break ties by the order within an image
    return Annotations(
        ids=image_ids,
        categories=categories,
        offsets=offsets_of(np.bincount(image, minlength=len(image_ids))),
        boxes=boxes[order],
        labels=category[order],
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in records], np.bool_)[order],
        areas=areas[order],
    )


def results_of(predictions: Results | Sequence[Row]) -> Results:
    """Predictions as columns; the input is not changed.

    Args:
        predictions: columns, or COCO result rows with ``image_id``, ``category_id``, ``bbox`` (xywh) and ``score``;
            may be empty.

    Raises:
        ValueError: if a key is missing, a box or a score is no number or not finite, or a width or height is negative.
            The message names the rows.
    """
    if isinstance(predictions, Results):
        _check_results(predictions)
        return predictions
    columns = _Columns()
    return columns.results([columns.take(row) for row in predictions])


def matched_ids(results: Results, annotations: Annotations) -> Results:
    """Results whose positions are those of the annotations' images and categories.

    Raises:
        ValueError: if a detection is of an image or a category that the annotations lack.
    """

    def positions(given: Sequence[Any], known: Sequence[Any], rows: NDArray[np.int64], what: str) -> NDArray[np.int64]:
        if tuple(given) == tuple(known):
            return rows
        place = {value: i for i, value in enumerate(known)}
        places = np.array([place.get(value, -1) for value in given], np.int64)[rows]
        if (places < 0).any():
            _positions([given[row] for row in rows.tolist()], known, what, _prediction)
        return places

    return replace(
        results,
        ids=annotations.ids,
        category_ids=annotations.categories.ids,
        images=positions(results.ids, annotations.ids, results.images, "image"),
        labels=positions(results.category_ids, annotations.categories.ids, results.labels, "category"),
    )


def read_annotations(path: Path) -> Annotations:
    """Read COCO's ground truth from a file, see :func:`annotations_of`.

    Raises:
        ValueError: naming the file.
    """
    content = _read(path, None)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected COCO annotations (images, categories, annotations), got a list")
    try:
        return annotations_of(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_results(path: Path) -> Results:
    """Read COCO's results from a file; its rows become columns while it is parsed, for there may be millions.

    Raises:
        ValueError: naming the file, see :func:`results_of`.
    """
    columns = _Columns()
    content = _read(path, columns.take)
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a list of COCO result rows {{{', '.join(_KEYS)}}}")
    try:
        return columns.results(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_results(path: Path, results: Results) -> None:
    """Write COCO's results, a row per line, in strict JSON.

    Raises:
        ValueError: for a number that is not finite; nothing is written.
    """
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    write_text(path, "[" + ",\n".join(map(encode, rows_of(results))) + "]\n")


def rows_of(results: Results) -> Iterator[dict[str, Any]]:
    """Results as COCO result rows, in their order: ``{image_id, category_id, bbox, score}``."""
    columns = (results.images, results.labels, results.boxes, results.scores)
    for image, label, box, score in zip(*(column.tolist() for column in columns), strict=True):
        row = (results.ids[image], results.category_ids[label], box, score)
        yield dict(zip(_KEYS, row, strict=True))


def _read(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=object_hook)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        raise InputError(f"{path}: no JSON: {error}") from None


_TAKEN = object()


class _Columns:
    """Columns that result rows are taken into one by one."""

    def __init__(self) -> None:
        self.ids: dict[Any, int] = {}
        self.category_ids: dict[Any, int] = {}
        self.positions = array("q")  # image and category
        self.numbers = array("d")  # x, y, width, height, score

    def take(self, row: Any) -> Any:
        """Take in a result row and return a mark; what is none is returned as it is."""
        try:
            x, y, width, height = row["bbox"]
            numbers = array("d", (x, y, width, height, row["score"]))
            image = self.ids.setdefault(row["image_id"], len(self.ids))
            category = self.category_ids.setdefault(row["category_id"], len(self.category_ids))
        except (KeyError, TypeError, ValueError, OverflowError):
            return row
        self.positions.extend((image, category))
        self.numbers.extend(numbers)
        return _TAKEN

    def results(self, rows: Sequence[Any]) -> Results:
        """What was taken.

        Args:
            rows: of each row what :meth:`take` returned.

        Raises:
            ValueError: naming the first that could not be taken, or whose numbers are none that a detection can have.
        """
        wrong = next((i for i, row in enumerate(rows) if row is not _TAKEN), None)
        if wrong is not None:
            raise _fault(wrong, rows[wrong])
        positions = np.array(self.positions, np.int64).reshape(-1, 2)
        numbers = np.array(self.numbers, np.float64).reshape(-1, 5)
        if len(numbers) != len(rows):
            raise InputError("result rows lie inside other records; expected one list of rows")
        found = Results(
            ids=tuple(self.ids),
            category_ids=tuple(self.category_ids),
            images=positions[:, 0],
            labels=positions[:, 1],
            boxes=numbers[:, :4],
            scores=numbers[:, 4],
        )
        _check_results(found)
        return found


def _fault(index: int, row: Any) -> InputError:
    """Why a row is no result."""
    if not isinstance(row, Mapping):
        return InputError(f"row {index} is {row!r:.60}, expected {{{', '.join(_KEYS)}}}")
    name = _prediction(index)
    for key in _KEYS:
        if key not in row:
            return InputError(f"{name}: '{key}' is missing (it has {', '.join(map(str, row)) or 'nothing'})")
    for key, what in (("image_id", "image"), ("category_id", "category")):
        if not isinstance(row[key], Hashable):
            return InputError(f"{name}: {what} id {row[key]!r:.60} is not in any ground truth: it is no text or number")
    box, score = row["bbox"], row["score"]
    if not isinstance(box, Sequence) or len(box) != 4:
        return InputError(f"{name}: bbox is {box!r:.60}, expected four numbers x, y, width, height")
    what, value = ("score", score) if all(isinstance(side, Real) for side in box) else ("bbox", box)
    return InputError(f"{name}: {what} is {value!r:.60}, expected numbers")


def _prediction(index: int) -> str:
    return f"prediction row {index}"


def _check_results(results: Results) -> None:
    _check_boxes(results.boxes, _prediction)
    bad = np.flatnonzero(~np.isfinite(results.scores))
    if bad.size:
        where = f"{_prediction(bad[0])} (image {results.ids[results.images[bad[0]]]})"
        raise InputError(
            f"{where}: score is {results.scores[bad[0]]}, expected a finite number ({bad.size} such rows); "
            "the model has probably diverged"
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
        raise InputError(f"{what} {rows[index].get('id', index)}: '{key}' is missing (it has {given})") from None


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
    _check_boxes(boxes, label)
    return boxes


def _check_boxes(boxes: NDArray[np.float64], label: Callable[[int], str]) -> None:
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


def _positions(ids: list[Any], known: Sequence[Any], what: str, label: Callable[[int], str]) -> NDArray[np.int64]:
    """Position of each id in ``known``."""
    place = {value: i for i, value in enumerate(known)}
    unknown = [i for i, value in enumerate(ids) if not isinstance(value, Hashable) or value not in place]
    if unknown:
        names = list(dict.fromkeys(repr(ids[i]) for i in unknown))
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        mixed = str(ids[unknown[0]]) in map(str, known)
        hint = "; the same id is written as text and as a number, use one kind" if mixed else ""
        raise InputError(
            f"{label(unknown[0])}: {what} id {', '.join(names[:SHOWN])}{more} is not in the ground truth "
            f"({len(unknown)} such rows; the ground truth has {len(known)} ids, such as {known[0]!r}){hint}"
        )
    return np.array([place[value] for value in ids], np.int64)


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
