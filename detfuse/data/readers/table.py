"""Rows of a CSV file: an image, four corners, a label.

The image's id is its name in the file; classes have the ids 1, 2, ... in alphabetical order, unless a ``classes.csv``
beside it (rows of a name and its number) gives them others. Columns are known by their names, several tools' of which
are understood (:data:`COLUMNS`); six columns without names are image, xmin, ymin, xmax, ymax and label. A row with
nothing but an image says that it has no objects. Fields are separated by commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from detfuse.data.index import DataError
from detfuse.data.readers.records import BoxRecord, CategoryRecord, ImageRecord, Records, Repairs, number_in, picture
from detfuse.data.readers.refusals import Refusals

TABLE = "CSV rows"

COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("image", "imagepath", "filename", "imagename", "file", "path", "imageid", "img", "imgpath"),
    "xmin": ("xmin", "x1", "left", "bboxxmin"),
    "ymin": ("ymin", "y1", "top", "bboxymin"),
    "xmax": ("xmax", "x2", "right", "bboxxmax"),
    "ymax": ("ymax", "y2", "bottom", "bboxymax"),
    "label": ("label", "class", "classname", "labelname", "category", "categoryname", "name"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    "iscrowd": ("iscrowd", "isgroupof"),
    "ignore": ("ignore", "difficult", "isdifficult"),
}
"""What a column holds -> its names, whatever their case, without spaces, dashes and underscores."""

_NEEDED = ("image", "xmin", "ymin", "xmax", "ymax", "label")
_SIDES = ("height", "width")
_CORNERS = _NEEDED[1:5]
_FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True, "-1": False}  # -1 is unknown in Open Images


class _Row(NamedTuple):
    line: int
    values: dict[str, str]


def table_records(source: Path, others: Sequence[Path], picture_of: Callable[[str | None, str], str]) -> Records:
    """The records of a CSV file.

    Args:
        source: the file.
        others: files of the data set's other splits, which have the same classes.
        picture_of: finds an image, by the name that the file has for it and by that name without suffix.

    Raises:
        DataError: naming the file and line, if it has not the columns, or a row no object of an image.
    """
    rows = list(rows_of(source))
    images: dict[str, _Row] = {}
    for row in rows:
        if not row.values["image"]:
            raise DataError(f"{source}: line {row.line}: the image is not named")
        images.setdefault(row.values["image"], row)
    names = {row.values["label"] for row in rows if _has_object(row)}
    for other in others:
        names |= {row.values["label"] for row in rows_of(other) if _has_object(row)}
    if not names:
        raise DataError(f"{source}: none of the rows has an object: there is nothing to learn")
    repairs: Repairs = defaultdict(list)
    refusals = Refusals(source)

    def image(named: tuple[str, _Row]) -> ImageRecord:
        name, row = named
        height, width = (_side(source, row, side) for side in _SIDES)
        return ImageRecord(name, picture(picture_of, name, Path(name).stem, repairs), height, width)

    ids = _ids(classes_beside(source), sorted(names))
    return Records(
        source,
        form=TABLE,
        has_areas=False,
        categories=[CategoryRecord(number, name) for name, number in ids.items()],
        images=refusals.each(image, images.items()),
        boxes=refusals.each(partial(_box, source, ids), enumerate(filter(_has_object, rows), start=1)),
        repairs=repairs,
        refusals=refusals,
    )


def classes_beside(path: Path) -> Path:
    """Where a CSV file's classes have their numbers, if that file is there."""
    return path.parent / "classes.csv"


def is_table(path: Path) -> bool:
    """Whether a CSV file has the columns."""
    try:
        next(rows_of(path), None)
    except DataError:
        return False
    return True


def rows_of(path: Path) -> Iterator[_Row]:
    """The rows by what their columns hold.

    Raises:
        DataError: naming the file, if it cannot be read or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            start = file.read(8192)
            file.seek(0)
            lines = csv.reader(file, delimiter=_delimiter(start))
            first = next(lines, [])
            columns = _columns(path, first)
            if _is_row(first):
                yield _row(path, 1, first, columns)
            for fields in lines:
                if any(field.strip() for field in fields):
                    yield _row(path, lines.line_num, fields, columns)
    except OSError as error:
        raise DataError(f"{path}: the annotation file cannot be opened ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error


def _delimiter(text: str) -> str:
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)


def _is_row(fields: Sequence[str]) -> bool:
    """Whether a first line is a row already, and names no columns."""
    return len(fields) == len(_NEEDED) and all(number_in(field) is not None for field in fields[1:5])


def _columns(path: Path, first: Sequence[str]) -> dict[str, int]:
    if _is_row(first):
        return {name: position for position, name in enumerate(_NEEDED)}
    given = ["".join(c for c in field.lower() if c.isalnum()) for field in first]
    columns = {}
    for name, known in COLUMNS.items():
        places = [given.index(alias) for alias in known if alias in given]
        if places:
            columns[name] = places[0]
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise DataError(
            f"{path}: the first line names no column for {', '.join(missing)}; expected {','.join(_NEEDED)}, "
            f"got {','.join(first)!r:.100}"
        )
    return columns


def _row(path: Path, line: int, fields: Sequence[str], columns: dict[str, int]) -> _Row:
    needed = max(columns[name] for name in _NEEDED)
    if len(fields) <= needed:
        raise DataError(f"{path}: line {line}: {len(fields)} fields, expected at least {needed + 1}")
    return _Row(line, {name: fields[i].strip() for name, i in columns.items() if i < len(fields)})


def _has_object(row: _Row) -> bool:
    return any(row.values[name] for name in (*_CORNERS, "label"))


def _ids(classes: Path, names: Sequence[str]) -> dict[str, int]:
    """Of the file that names the classes if it names all of them; else counted from 1."""
    listed: dict[str, int] = {}
    if classes.is_file():
        try:
            with classes.open(encoding="utf-8-sig", newline="") as file:
                for fields in csv.reader(file):
                    if len(fields) == 2 and fields[1].strip().isdecimal():
                        listed[fields[0].strip()] = int(fields[1])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{classes}: cannot be read ({error})") from error
    return listed if set(names) <= set(listed) else {name: number for number, name in enumerate(names, start=1)}


def _side(source: Path, row: _Row, name: str) -> int | None:
    text = row.values.get(name, "")
    if not text:
        return None
    value = number_in(text)
    if value is None or value < 1 or value != int(value):
        raise DataError(f"{source}: line {row.line}: {name} must be a positive integer, got {text!r:.40}")
    return int(value)


def _box(source: Path, ids: dict[str, int], given: tuple[int, _Row]) -> BoxRecord:
    number, row = given
    x1, y1, x2, y2 = (_corner(source, row, name) for name in _CORNERS)
    if x2 < x1 or y2 < y1:
        raise DataError(
            f"{source}: line {row.line}: the corners {x1:g}, {y1:g}, {x2:g}, {y2:g} are swapped; "
            "expected xmin <= xmax and ymin <= ymax"
        )
    if not row.values["label"]:
        raise DataError(f"{source}: line {row.line}: the box has no label")
    return BoxRecord(
        name=f"in line {row.line}",
        id=number,
        image_id=row.values["image"],
        category_id=ids[row.values["label"]],
        box=(x1, y1, x2 - x1, y2 - y1),
        area=None,
        crowd=_flag(source, row, "iscrowd"),
        ignore=_flag(source, row, "ignore"),
    )


def _corner(source: Path, row: _Row, name: str) -> float:
    value = number_in(row.values[name])
    if value is None:
        raise DataError(f"{source}: line {row.line}: {name} must be a number, got {row.values[name]!r:.40}")
    return value


def _flag(source: Path, row: _Row, name: str) -> bool:
    text = row.values.get(name, "").lower()
    if text not in _FLAGS:
        raise DataError(f"{source}: line {row.line}: {name} must be 0 or 1, got {text!r:.40}")
    return _FLAGS[text]
