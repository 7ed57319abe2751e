"""COCO's json form."""

from __future__ import annotations

import gc
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any, TypeGuard

import numpy as np

from detfuse.data.images import CheckImages
from detfuse.data.index import AnnotationIndex
from detfuse.data.readers.checked import index_of
from detfuse.data.readers.coco_json import parse
from detfuse.data.readers.records import (
    Boxes,
    CategoryRecord,
    ImageRecord,
    Records,
    Repairs,
    is_integer,
    is_number,
    number_in,
)
from detfuse.data.readers.refusals import Refusals
from detfuse.data.readers.shapes import Extent

COCO = "COCO json"


def read_coco(
    annotations: str | Path,
    images: str | Path | Sequence[Path],
    *,
    follow_symlinks: bool = False,
    check: CheckImages = "header",
    limit_images: int | None = None,
) -> AnnotationIndex:
    """Read and validate a COCO annotation file.

    Args:
        annotations: the json file.
        images: see :func:`detfuse.data.readers.index_of`, as for the others.
        follow_symlinks: allow links that lead out of the image folder.
        check: how far the image files are looked at.
        limit_images: keep the first images by id.

    Raises:
        DataError: naming the file, the record's id, what was expected and what to do.
    """
    options: dict[str, Any] = {"follow_symlinks": follow_symlinks, "check": check, "limit_images": limit_images}
    return index_of(coco_records(Path(annotations)), images, **options)


def coco_records(source: Path) -> Records:
    """The records of a COCO annotation file.

    Raises:
        DataError: if it is none.
    """
    repairs: Repairs = defaultdict(list)
    refusals = Refusals(source)
    with _uncollected():
        content = parse(source)
        return Records(
            source,
            form=COCO,
            categories=list(_categories(content["categories"], repairs, refusals)),
            images=list(_images(content["images"], repairs, refusals)),
            boxes=_boxes(content, repairs, refusals),
            repairs=repairs,
            refusals=refusals,
        )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for cycles, of which json has none: it goes through all that was parsed, again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _objects(kind: str, records: list[Any], refusals: Refusals) -> Iterator[tuple[int, dict[str, Any]]]:
    for position, record in enumerate(records):
        if isinstance(record, dict):
            yield position, record
        else:
            refusals.add(f"{kind} at position {position}", f"expected an object, got {record!r:.60}", "is no object")


def _categories(records: list[Any], repairs: Repairs, refusals: Refusals) -> Iterator[CategoryRecord]:
    texts = _all_as_text(records, "id")
    for position, record in _objects("category", records, refusals):
        number, name, group = record.get("id"), record.get("name"), record.get("supercategory")
        if texts:
            repairs[_AS_TEXT.format("id of a category")].append(str(number))
            number = int(record["id"])
        if not is_integer(number):
            what = "id must be an integer"
            refusals.add(f"category at position {position}", f"{what}, got {number!r}", what)
        elif not isinstance(name, str) or not name:
            refusals.add(f"category {number}", f"name must be a text, got {name!r}", "name must be a text")
        else:
            yield CategoryRecord(number, name, group if isinstance(group, str) else None)


_SIDES = ("height", "width")


def _images(records: list[Any], repairs: Repairs, refusals: Refusals) -> Iterator[ImageRecord]:
    texts = all(isinstance(record, dict) and isinstance(record.get("id"), str) for record in records)
    as_text = [key for key in _SIDES if _all_as_text(records, key)]
    for position, record in _objects("image", records, refusals):
        image_id: Any = record.get("id")
        if not (_is_encodable(image_id) if texts else is_integer(image_id)):
            what = "id must be an integer, or in all images a text that UTF-8 can write"
            refusals.add(f"image at position {position}", f"{what}; got {image_id!r}", what)
            continue
        size = [int(record[key]) if key in as_text else _whole(record.get(key)) for key in _SIDES]
        if None in size:
            size = [None, None]
            repairs["image without width and height, which were read from its header"].append(str(image_id))
        elif wrong := [i for i, value in enumerate(size) if not is_integer(value) or value < 1]:
            what = f"{_SIDES[wrong[0]]} must be a positive integer"
            refusals.add(f"image {image_id}", f"{what}, got {size[wrong[0]]!r}", what)
            continue
        for key in as_text:
            repairs[_AS_TEXT.format(f"{key} of an image")].append(str(image_id))
        name = record.get("file_name")
        if name is None and isinstance(record.get("filename"), str):
            repairs["image with filename in place of file_name"].append(str(image_id))
            name = record["filename"]
        yield ImageRecord(image_id, name, *size)


def _whole(value: Any) -> Any:
    """640.0 is 640, as spreadsheets write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _boxes(content: dict[str, Any], repairs: Repairs, refusals: Refusals) -> Boxes:
    given = content["annotations"]
    as_text = {key for key in _NUMBERS if _all_as_text(given, key)}
    images = (record for record in content["images"] if isinstance(record, dict))
    if content["images"] and not any(is_integer(record.get("id")) for record in images):
        as_text.discard("image_id")
    positions: Sequence[int] = range(len(given))
    records: list[dict[str, Any]] = given
    if set(map(type, given)) - {dict}:
        objects = list(_objects("annotation", given, refusals))
        positions, records = [position for position, _ in objects], [record for _, record in objects]
    if as_text:
        records = [_as_numbers(record, as_text) for record in records]
    if not _is_right(records):  # then it is looked for
        wrong = {row: told for row, record in enumerate(records) if (told := _problem(record)) is not None}
        for row, told in wrong.items():
            refusals.add(f"annotation {records[row].get('id', f'at position {positions[row]}')}", *told)
        positions = [position for row, position in enumerate(positions) if row not in wrong]
        records = [record for row, record in enumerate(records) if row not in wrong]
    boxes = _columns(records, positions, repairs)
    for key in sorted(as_text):
        repairs[_AS_TEXT.format(key)] += map(boxes.name, range(len(boxes)))
    return boxes


def _columns(records: Sequence[dict[str, Any]], positions: Sequence[int], repairs: Repairs) -> Boxes:
    def column(key: str) -> list[Any]:
        return [record.get(key) for record in records]

    ids = column("id")

    def name(row: int) -> str:
        return f"at position {positions[row]}" if ids[row] is None else str(ids[row])

    boxes = column("bbox")
    if Extent in set(map(type, boxes)):
        rows = (row for row, box in enumerate(boxes) if isinstance(box, Extent))
        repairs["annotation without bbox, taken as the extent of its segmentation"] += map(name, rows)
    return Boxes(
        name=name,
        ids=ids,
        image_ids=column("image_id"),
        category_ids=column("category_id"),
        boxes=np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4),
        areas=column("area"),
        crowd=[None if value is None else bool(value) for value in column("iscrowd")],
        ignore=np.array(column("ignore"), np.bool_),  # None is false
        relative=np.zeros(len(records), np.bool_),
    )


def _is_right(records: Sequence[dict[str, Any]]) -> bool:
    """Whether the types that occur in all the records show that :func:`_problem` has nothing to say of any."""
    boxes: list[Any] = [record.get("bbox") for record in records]
    if not (set(map(type, boxes)) <= {list, Extent} and set(map(len, boxes)) <= {4}):
        return False
    if not set(map(type, chain.from_iterable(boxes))) <= {int, float}:
        return False
    try:
        numbers = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes))
    except OverflowError:  # an integer of hundreds of digits
        return False
    ids = [record["id"] for record in records if record.get("id") is not None]
    if not (np.abs(numbers) < _MOST).all() or set(map(type, ids)) - {int}:
        return False
    flags = [record.get(key) for key in ("iscrowd", "ignore") for record in records]
    if set(map(type, flags)) - {int, NoneType} or set(flags) - set(_FLAGS):
        return False
    return max(ids, default=0) < _MOST and min(ids, default=0) > -_MOST


def _problem(record: dict[str, Any]) -> tuple[str, str] | None:
    """What is wrong with a record, and the same in words that fit all records that have it."""
    number, box = record.get("id"), record.get("bbox")
    if number is not None and not is_integer(number):
        return f"id must be an integer, got {number!r}", "id must be an integer"
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        expected = "bbox must be four numbers [x, y, width, height]"
        hint = "" if box else "; there is no segmentation either whose extent it could be"
        return f"{expected}, got {box!r}{hint}", expected
    for key in ("iscrowd", "ignore"):
        if record.get(key) not in _FLAGS:
            return f"{key} must be 0 or 1, got {record[key]!r}", f"{key} must be 0 or 1"
    return None


_MOST = 2**63  # more than columns can hold
_FLAGS = (None, 0, 1)
_NUMBERS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)
_AS_TEXT = "{} written as text, in all records, taken as the number"


def _all_as_text(records: list[Any], key: str) -> bool:
    """Whether all records write a number of theirs as text; one among others may mean something else."""
    values = (record.get(key) if isinstance(record, dict) else None for record in records)
    if key == "bbox":
        return bool(records) and all(isinstance(value, list) and all(map(_is_text, value)) for value in values)
    return bool(records) and all(_is_text(value) and (key == "area" or _WHOLE.fullmatch(value)) for value in values)


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and number_in(value) is not None


def _as_numbers(record: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    numbers: dict[str, Any] = {key: int(record[key]) for key in keys - {"bbox", "area"}}
    if "area" in keys:
        numbers["area"] = number_in(record["area"])
    if "bbox" in keys:
        numbers["bbox"] = [number_in(value) for value in record["bbox"]]
    return record | numbers


def _is_encodable(text: str) -> bool:
    """Whether results can name it: half of a surrogate pair, which JSON can hold, could not be written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
