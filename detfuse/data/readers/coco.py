"""COCO's json form."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from detfuse.data.images import CheckImages
from detfuse.data.index import AnnotationIndex, DataError
from detfuse.data.readers.checked import index_of
from detfuse.data.readers.records import (
    BoxRecord,
    CategoryRecord,
    ImageRecord,
    Records,
    Repairs,
    is_integer,
    is_number,
    number_in,
)
from detfuse.data.readers.shapes import Extent, extent_of

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
        DataError: if it is none; of a record that is none, as soon as that is gone through.
    """
    content = _parse(source)
    repairs: Repairs = defaultdict(list)
    return Records(
        source,
        form=COCO,
        categories=_categories(source, content["categories"], repairs),
        images=_images(source, content["images"], repairs),
        boxes=_boxes(source, content, repairs),
        repairs=repairs,
    )


_NO_BOX: tuple[Any, ...] = (None, [], [0, 0, 0, 0])  # what tools write that have outlines only


def _parse(source: Path) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(items)
        if len(record) != len(items):
            twice = [key for key, count in Counter(key for key, _ in items).items() if count > 1]
            raise DataError(f"{source}: the key {twice[0]!r} stands twice in one object; keep one of them")
        shape = record.pop("segmentation", None)  # most of COCO's bytes, and boxes do not need it
        if shape and record.get("bbox") in _NO_BOX and (extent := extent_of(shape)) is not None:
            record["bbox"] = extent
        return record

    try:
        content = json.loads(source.read_bytes().decode("utf-8-sig"), object_pairs_hook=pairs)
    except OSError as error:
        raise DataError(f"{source}: the annotation file cannot be opened ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except RecursionError as error:
        raise DataError(f"{source}: nested too deeply to be a COCO annotation file") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{source}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "the file may be empty or cut off: write or download it again"
        ) from error
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{source}: {error}; correct the file") from error  # a number of thousands of digits
    if not isinstance(content, dict):
        hint = " (a results file?)" if isinstance(content, list) else ""
        raise DataError(
            f"{source}: expected an object with images, annotations and categories, got a "
            f"{type(content).__name__}{hint}"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            found = type(content[key]).__name__ if key in content else "no such key"
            raise DataError(f"{source}: expected a list of records under {key!r}, got {found}")
    return content


def _fail(source: Path, record: str, problem: str) -> DataError:
    return DataError(f"{source}: {record}: {problem}")


def _objects(source: Path, kind: str, records: list[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    for position, record in enumerate(records):
        if not isinstance(record, dict):
            raise _fail(source, f"{kind} at position {position}", f"expected an object, got {record!r:.60}")
        yield position, record


def _categories(source: Path, records: list[Any], repairs: Repairs) -> Iterator[CategoryRecord]:
    texts = _all_as_text(records, "id")
    for position, record in _objects(source, "category", records):
        number, name, group = record.get("id"), record.get("name"), record.get("supercategory")
        if texts:
            repairs[_AS_TEXT.format("id of a category")].append(str(number))
            number = int(record["id"])
        if not is_integer(number):
            raise _fail(source, f"category at position {position}", f"id must be an integer, got {number!r}")
        if not isinstance(name, str) or not name:
            raise _fail(source, f"category {number}", f"name must be a text, got {name!r}")
        yield CategoryRecord(number, name, group if isinstance(group, str) else None)


def _images(source: Path, records: list[Any], repairs: Repairs) -> Iterator[ImageRecord]:
    texts = all(isinstance(record, dict) and isinstance(record.get("id"), str) for record in records)
    sides = ("height", "width")
    as_text = [key for key in sides if _all_as_text(records, key)]
    for position, record in _objects(source, "image", records):
        image_id: Any = record.get("id")
        if not (_is_encodable(image_id) if texts else is_integer(image_id)):
            expected = "id must be an integer, or in all images a text that UTF-8 can write"
            raise _fail(source, f"image at position {position}", f"{expected}; got {image_id!r}")
        size = [int(record[key]) if key in as_text else _whole(record.get(key)) for key in sides]
        if None in size:
            size = [None, None]
            repairs["image without width and height, which were read from its header"].append(str(image_id))
        for key, value in zip(sides, size, strict=True):
            if value is not None and (not is_integer(value) or value < 1):
                raise _fail(source, f"image {image_id}", f"{key} must be a positive integer, got {value!r}")
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


def _boxes(source: Path, content: dict[str, Any], repairs: Repairs) -> Iterator[BoxRecord]:
    records = content["annotations"]
    as_text = {key for key in _NUMBERS if _all_as_text(records, key)}
    if content["images"] and not any(is_integer(record["id"]) for record in content["images"]):
        as_text.discard("image_id")
    for position, record in _objects(source, "annotation", records):
        name = str(record.get("id", f"at position {position}"))
        if as_text:
            record = _as_numbers(record, as_text)
            for key in sorted(as_text):
                repairs[_AS_TEXT.format(key)].append(name)
        number, box = record.get("id"), record.get("bbox")
        crowd, ignore = record.get("iscrowd"), record.get("ignore")
        if number is not None and not is_integer(number):
            raise _fail(source, f"annotation {name}", f"id must be an integer, got {number!r}")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            expected = "bbox must be four numbers [x, y, width, height]"
            hint = "" if box else "; there is no segmentation either whose extent it could be"
            raise _fail(source, f"annotation {name}", f"{expected}, got {box!r}{hint}")
        if isinstance(box, Extent):
            repairs["annotation without bbox, taken as the extent of its segmentation"].append(name)
        if crowd not in _FLAGS or ignore not in _FLAGS:
            flag, value = ("ignore", ignore) if crowd in _FLAGS else ("iscrowd", crowd)
            raise _fail(source, f"annotation {name}", f"{flag} must be 0 or 1, got {value!r}")
        x, y, width, height = map(float, box)
        yield BoxRecord(
            name=name,
            id=number,
            image_id=record.get("image_id"),
            category_id=record.get("category_id"),
            box=(x, y, width, height),
            area=record.get("area"),
            crowd=None if crowd is None else bool(crowd),
            ignore=bool(ignore),
        )


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
