"""YOLO's txt form: a file per image, a line per object, ``class x_centre y_centre width height`` in fractions.

An image's id is its file's name without suffix, below the folder of the images; a class's id is the number that the
lines give it, from 0. A line with a polygon (``class x y x y x y ...``) is read as the polygon's extent. An image
without a file, or with an empty one, has no objects.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from detfuse.data.index import DataError
from detfuse.data.readers.records import BoxRecord, CategoryRecord, ImageRecord, Records, number_in
from detfuse.data.readers.refusals import Refusals

YOLO = "YOLO txt"


def yolo_records(
    source: Path,
    images: Mapping[str, Path | None],
    others: Iterable[Path],
    names: Sequence[str] | Mapping[int, str] | None,
    *,
    keypoints: bool = False,
) -> Records:
    """The records of txt files.

    Args:
        source: the data.yaml, or the folder of the files, for messages.
        images: of the split, by their paths below the folder of the images; with the txt file of each, None where it
            has none.
        others: txt files of the data set's other splits, which have the same classes.
        names: of the classes by their numbers; None if nothing names them, the numbers are their names then.
        keypoints: whether what follows the four numbers of a box are keypoints, and no polygon.

    Raises:
        DataError: naming the file and line, if it is no object's.
    """
    refusals = Refusals(source)
    files = {file for file in images.values() if file is not None}
    lines = {file: _lines(file, refusals, keypoints=keypoints) for file in sorted(files)}
    refusals.settle()
    named = dict(names.items() if isinstance(names, Mapping) else enumerate(names or ()))
    if names is None:
        more = {file: _lines(file, refusals, keypoints=keypoints) for file in set(others) - files}
        refusals.settle()
        named = {number: str(number) for each in (lines | more).values() for number in {int(v[0]) for _, v in each}}
    if not named:
        raise DataError(f"{source}: no class is named, and no file has an object: there is nothing to learn")
    return Records(
        source,
        form=YOLO,
        has_areas=False,
        categories=[CategoryRecord(number, name) for number, name in sorted(named.items())],
        images=(ImageRecord(_id(name), name, None, None) for name in images),
        boxes=_boxes(images, lines, named, refusals),
        refusals=refusals,
    )


def _id(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


_Values = tuple[float, float, float, float, float]  # class, and box: centre and size


def _boxes(
    images: Mapping[str, Path | None],
    lines: Mapping[Path, Sequence[tuple[int, _Values]]],
    named: Mapping[int, str],
    refusals: Refusals,
) -> list[BoxRecord]:
    counter = itertools.count(1)
    boxes = []
    for name, file in images.items():
        if file is not None:
            box = partial(_box, name, file, named, counter)
            boxes += refusals.each(box, lines[file])
    return boxes


def _box(
    name: str, file: Path, named: Mapping[int, str], counter: Iterator[int], given: tuple[int, _Values]
) -> BoxRecord:
    line, (category, x, y, w, h) = given
    number = int(category)
    if number not in named:
        raise DataError(
            f"{file}: line {line}: class {number} is not among the {len(named)} that are named "
            f"({min(named)} to {max(named)}); name it, or correct the line"
        )
    return BoxRecord(
        name=f"{line} in {file.name}",
        id=next(counter),
        image_id=_id(name),
        category_id=number,
        box=(x - w / 2, y - h / 2, w, h),
        area=None,
        crowd=False,
        relative=True,
    )


def _lines(file: Path, refusals: Refusals, *, keypoints: bool) -> list[tuple[int, _Values]]:
    """The objects of a file, with their lines."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: the annotation file cannot be opened ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; is it a file of YOLO's form?") from error
    rows = [(line, words) for line, row in enumerate(text.splitlines(), start=1) if (words := row.split())]
    return refusals.each(lambda row: (row[0], _parsed(file, *row, keypoints=keypoints)), rows)


def _parsed(file: Path, line: int, words: list[str], *, keypoints: bool) -> _Values:
    def fail(problem: str) -> DataError:
        return DataError(f"{file}: line {line}: {problem}")

    values = [number_in(word) for word in words]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        raise fail(f"expected numbers 'class x_centre y_centre width height', got {' '.join(words)!r:.60}")
    if numbers[0] != int(numbers[0]) or numbers[0] < 0:
        raise fail(f"the class must be a number from 0, got {words[0]!r:.40}")
    if keypoints and len(numbers) > 5:
        numbers = numbers[:5]
    if len(numbers) == 6:
        raise fail("6 numbers: predictions with a score, or boxes with an angle; expected annotations of 5")
    if len(numbers) >= 7 and len(numbers) % 2 == 1:
        xs, ys = numbers[1::2], numbers[2::2]
        extent = (max(xs) - min(xs), max(ys) - min(ys))
        numbers = [numbers[0], (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2, *extent]
    if len(numbers) != 5:
        raise fail(f"expected the 5 numbers 'class x_centre y_centre width height', got {len(numbers)}")
    category, x, y, w, h = numbers
    if max(x, y, w, h) > _LARGEST:
        raise fail(f"{' '.join(words[1:5])} are no fractions of the image: divide by its width and height")
    return category, x, y, w, h


_LARGEST = 2.0  # of fractions that are meant as such: a box may leave its image, and is clipped to it
