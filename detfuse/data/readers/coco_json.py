"""The json of a COCO annotation file: parsed strictly, but for outlines of objects that have boxes.

Outlines are four fifths of COCO's bytes, and no box needs them. So they are taken out of the bytes before these are
parsed; where that is not enough, because an object has no box, or because the file has a fault that is to be told by
its line, the whole file is parsed as it is.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from detfuse.data.index import DataError
from detfuse.data.readers.shapes import extent_of

_NO_BOX: tuple[Any, ...] = (None, [], [0, 0, 0, 0])  # what tools write that have outlines only
# A key, for a quote within a text has a backslash before it; and a list of numbers, or of such lists. The literal is
# the first part, so that it is looked for at the speed of memory.
_NUMBERS = rb"[-+0-9.eE, \t\r\n]"
_OUTLINE = re.compile(
    rb'"segmentation"(?<!\\"segmentation")[ \t\r\n]*:[ \t\r\n]*\[(?:%b++|\[%b*+\])*+\]' % (_NUMBERS, _NUMBERS)
)


def parse(source: Path) -> dict[str, Any]:
    """The content of a file: ``images``, ``annotations`` and ``categories`` are lists.

    An annotation without a box has the extent of its outline as ``bbox``, an :class:`Extent`.

    Raises:
        DataError: if it is no such file; naming the line, if it is no JSON.
    """
    try:
        content = _without_outlines(source)
        if content is None:
            content = _whole(source)
    except OSError as error:
        raise DataError(f"{source}: the annotation file cannot be opened ({error.strerror})") from error
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


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(items)
    if len(record) != len(items):
        twice = [key for key, count in Counter(key for key, _ in items).items() if count > 1]
        raise DataError(f"the key {twice[0]!r} stands twice in one object; keep one of them")
    return record


def _without_outlines(source: Path) -> dict[str, Any] | None:
    """The content, if all annotations have boxes and nothing is wrong with the file."""
    data = _OUTLINE.sub(b'"segmentation":0', source.read_bytes())
    try:
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    records = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(records, list) or any(isinstance(each, dict) and _has_outline_only(each) for each in records):
        return None
    return content  # type: ignore[no-any-return]  # a dict


def _has_outline_only(record: dict[str, Any]) -> bool:
    return record.get("bbox") in _NO_BOX and "segmentation" in record


def _with_extent(items: list[tuple[str, Any]]) -> dict[str, Any]:
    record = _once(items)
    shape = record.pop("segmentation", None)
    if shape and record.get("bbox") in _NO_BOX and (extent := extent_of(shape)) is not None:
        record["bbox"] = extent
    return record


def _whole(source: Path) -> Any:
    try:
        return json.loads(source.read_bytes().decode("utf-8-sig"), object_pairs_hook=_with_extent)
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except RecursionError as error:
        raise DataError(f"{source}: nested too deeply to be a COCO annotation file") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{source}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "the file may be empty or cut off: write or download it again"
        ) from error
    except DataError as error:  # which knows no file
        raise DataError(f"{source}: {error}") from error
    except ValueError as error:
        raise DataError(f"{source}: {error}; correct the file") from error  # a number of thousands of digits
