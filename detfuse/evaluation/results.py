"""COCO's results between columns and json: the only place where they are read and written."""

from __future__ import annotations

import json
from array import array
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detfuse.annotations import Annotations, Results
from detfuse.errors import InputError
from detfuse.evaluation.rows import Row, check_boxes, numbers_of, positions_of, read_json, value_of
from detfuse.files.text import write_text

_KEYS = ("image_id", "category_id", "bbox", "score")
_EXPECTED = f"expected {{{', '.join(_KEYS)}}}"


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
        _check(predictions)
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
            positions_of([given[row] for row in rows.tolist()], known, what, _name)
        return places

    return replace(
        results,
        ids=annotations.ids,
        category_ids=annotations.categories.ids,
        images=positions(results.ids, annotations.ids, results.images, "image"),
        labels=positions(results.category_ids, annotations.categories.ids, results.labels, "category"),
    )


def read_results(path: Path) -> Results:
    """Read COCO's results from a file; its rows become columns while it is parsed, for there may be millions.

    Raises:
        ValueError: naming the file, see :func:`results_of`.
    """
    columns = _Columns()
    content = read_json(path, columns.take)
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a list of COCO result rows; {_EXPECTED}")
    try:
        return columns.results(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_results(path: Path, results: Results) -> None:
    """Write COCO's results, a row per line, in strict JSON.

    Raises:
        ValueError: for a number that is not finite; nothing is written.
    """
    if not (np.isfinite(results.boxes).all() and np.isfinite(results.scores).all()):
        raise InputError(f"{path}: numbers that are not finite are not JSON compliant; nothing was written")
    write_text(path, "[" + ",\n".join(_lines(results)) + "]\n")


def _lines(results: Results) -> Iterator[str]:
    """The rows as JSON has them; an encoder, which has to look at every value, takes twice as long."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    images, categories = list(map(encode, results.ids)), list(map(encode, results.category_ids))
    columns = (results.images, results.labels, *results.boxes.T, results.scores)
    for image, label, x, y, w, h, score in zip(*(column.tolist() for column in columns), strict=True):
        yield (
            f'{{"image_id": {images[image]}, "category_id": {categories[label]}, '
            f'"bbox": [{x!r}, {y!r}, {w!r}, {h!r}], "score": {score!r}}}'
        )


def rows_of(results: Results) -> Iterator[dict[str, Any]]:
    """Results as COCO result rows, in their order: ``{image_id, category_id, bbox, score}``."""
    columns = (results.images, results.labels, results.boxes, results.scores)
    for image, label, box, score in zip(*(column.tolist() for column in columns), strict=True):
        row = (results.ids[image], results.category_ids[label], box, score)
        yield dict(zip(_KEYS, row, strict=True))


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
            image, category, numbers = _parsed(row, "")
        except InputError:
            return row
        self.positions.append(self.ids.setdefault(image, len(self.ids)))
        self.positions.append(self.category_ids.setdefault(category, len(self.category_ids)))
        self.numbers.extend(numbers)
        return _TAKEN

    def results(self, rows: Sequence[Any]) -> Results:
        """What was taken.

        Args:
            rows: of each row what :meth:`take` returned.

        Raises:
            ValueError: naming the first that could not be taken, or whose numbers are none that a detection can have.
        """
        for index, row in enumerate(rows):
            if row is not _TAKEN:
                _parsed(row, _name(index))
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
        _check(found)
        return found


def _parsed(row: Any, name: str) -> tuple[Any, Any, array[float]]:
    """A row's image, category, and numbers: box and score."""
    if not isinstance(row, Mapping):
        raise InputError(f"{name.removeprefix('prediction ')} is {row!r:.60}, {_EXPECTED}")
    image, category = value_of(row, "image_id", name), value_of(row, "category_id", name)
    for what, value in (("image", image), ("category", category)):
        if not isinstance(value, Hashable) or isinstance(value, bool):  # true is no 1
            raise InputError(f"{name}: {what} id {value!r:.60} is not in any ground truth: it is no text or number")
    value_of(row, "bbox", name)  # named before the score, where both are missing
    return image, category, numbers_of(row, "score", value_of(row, "score", name), name)


def _name(index: int) -> str:
    return f"prediction row {index}"


def _check(results: Results) -> None:
    check_boxes(results.boxes, _name)
    bad = np.flatnonzero(~np.isfinite(results.scores))
    if bad.size:
        where = f"{_name(bad[0])} (image {results.ids[results.images[bad[0]]]})"
        raise InputError(
            f"{where}: score is {results.scores[bad[0]]}, expected a finite number ({bad.size} such rows); "
            "the model has probably diverged"
        )
