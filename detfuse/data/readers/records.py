"""What a reader makes of an annotation file: records, whatever the form."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from detfuse.data.readers.refusals import Refusals
from detfuse.structures import ImageId

OVERSHOOT = 1.0
"""Pixels by which a box may leave its image without a word: COCO's own boxes do, by rounding."""

Repairs = defaultdict[str, list[str]]
"""What was repaired -> the names of the records."""


class CategoryRecord(NamedTuple):
    """A class of objects, and the name of the group that it is of, if it is of one."""

    id: int
    name: str
    group: str | None = None


class ImageRecord(NamedTuple):
    """An image; its file's name may be anything that the annotation file has in its place.

    The sizes are None where the annotation file has none: the image's header says them.
    """

    id: ImageId
    file_name: Any
    height: int | None
    width: int | None


class BoxRecord(NamedTuple):
    """An object, or a crowd of them.

    Attributes:
        name: what messages call it: ``11`` as in "annotation 11".
        id: None where the file lacks it; for a format that has none, the reader counts from 1.
        image_id: of its image; anything that the file has in its place, likewise for the next.
        category_id: of its category.
        box: x, y, width, height in pixels.
        area: in square pixels, or anything that the file has in its place; None where it is missing.
        crowd: None where that is missing.
        ignore: whether nobody is asked to find it.
        relative: whether the box is in fractions of the image's width and height instead.
    """

    name: str
    id: int | None
    image_id: Any
    category_id: Any
    box: tuple[float, float, float, float]
    area: Any
    crowd: bool | None
    ignore: bool = False
    relative: bool = False


@dataclass(frozen=True)
class Boxes:
    """Objects as columns, for a file may have a million: of each what a :class:`BoxRecord` has.

    Attributes:
        name: of the object in a row.
        ids: (A,) likewise for the next ones.
        image_ids: of the images.
        category_ids: of the categories.
        boxes: (A, 4) float64 x, y, width, height.
        areas: as the file has them.
        crowd: None where that is missing.
        ignore: (A,) bool.
        relative: (A,) bool.
    """

    name: Callable[[int], str]
    ids: Sequence[int | None]
    image_ids: Sequence[Any]
    category_ids: Sequence[Any]
    boxes: npt.NDArray[np.float64]
    areas: Sequence[Any]
    crowd: Sequence[bool | None]
    ignore: npt.NDArray[np.bool_]
    relative: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, records: Iterable[BoxRecord]) -> Boxes:
        """From single ones."""
        columns = list(zip(*records, strict=True)) or [()] * len(BoxRecord._fields)
        names, ids, image_ids, category_ids, boxes, areas, crowd, ignore, relative = columns
        return cls(
            name=names.__getitem__,
            ids=ids,
            image_ids=image_ids,
            category_ids=category_ids,
            boxes=np.array(boxes, np.float64).reshape(-1, 4),
            areas=areas,
            crowd=crowd,
            ignore=np.array(ignore, np.bool_),
            relative=np.array(relative, np.bool_),
        )


@dataclass(frozen=True)
class Records:
    """What a reader makes of an annotation file; the lists are gone through once, in this order.

    Attributes:
        source: the file, or the folder of the files, for messages.
        categories: in any order; labels follow the ascending order of the ids.
        images: in any order; their ids are all integers or all texts.
        boxes: in any order; that within an image is kept, for evaluators break ties by it. Single ones, or columns.
        form: what people call the form of the file.
        has_areas: whether the form has areas of objects, so that one without is a fault.
        repairs: what the reader repairs while the lists are gone through.
        refusals: what it refuses, likewise.
    """

    source: Path
    categories: Iterable[CategoryRecord]
    images: Iterable[ImageRecord]
    boxes: Iterable[BoxRecord] | Boxes
    form: str = ""
    has_areas: bool = True
    repairs: Repairs = field(default_factory=lambda: defaultdict(list))
    refusals: Refusals | None = None


def picture(picture_of: Callable[[str | None, str], str], given: str | None, stem: str, repairs: Repairs) -> str:
    """The name of an image's file, told where it is another than the annotations have.

    Args:
        picture_of: finds the file by the name that the annotations have, and by that without suffix.
        given: the name that the annotations have, if they have one.
        stem: a name without suffix.
        repairs: where it is told.
    """
    found = picture_of(given, stem)
    if given is not None and found != given and PurePosixPath(found).stem != given:
        repairs["image found by another name than the annotations have"].append(f"{given} is {found}")
    return found


def is_integer(value: object) -> TypeGuard[int]:
    """Whether it is one that columns can hold; ``True`` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is an integer or a float that columns can hold, infinite or NaN included."""
    return isinstance(value, float) or is_integer(value)


def number_in(text: str) -> float | None:
    """The number that a text is, with a point or, as some countries' tools write it, a comma; None if it is none."""
    text = text.strip()
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
