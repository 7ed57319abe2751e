"""From the records of any annotation file to an :class:`AnnotationIndex`, checked one by one.

A reader sees to the form: which keys a record has and of what type. Here their meaning is checked. Refused: what cannot
be understood or would train or score something else than what was meant. Repaired, with one warning per kind: what has
one sensible meaning. Told: what is legal, but hardly meant.
"""

from __future__ import annotations

import itertools
import math
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from detfuse.annotations import MOST_AREA, offsets_of
from detfuse.data.images import CheckImages, check_images
from detfuse.data.index import AnnotationIndex, DataError, DataWarning
from detfuse.data.readers.located import located
from detfuse.data.readers.records import (
    OVERSHOOT,
    BoxRecord,
    CategoryRecord,
    Records,
    Repairs,
    is_integer,
    is_number,
)
from detfuse.structures import Categories, Size

Grouping = Literal["keep", "drop"]
"""What becomes of a class that only groups others."""

IntArray = npt.NDArray[np.int64]
Box = tuple[float, float, float, float]
FloatArray = npt.NDArray[np.float64]

MIN_SIDE = 1e-3
"""Boxes thinner than this, in pixels, are degenerate: the logarithm of their size would explode."""

_ROUNDING = 0.01  # by which boxes in fractions may leave their image

_RIM = 16  # square pixels by which conventions differ in small boxes


def index_of(
    records: Records,
    images: str | Path | Sequence[Path],
    *,
    follow_symlinks: bool = False,
    check: CheckImages = "header",
    limit_images: int | None = None,
    grouping: Grouping = "keep",
) -> AnnotationIndex:
    """Check records and join them with their image files.

    Args:
        records: of an annotation file.
        images: folder of the images; of several, the first that holds the first image is taken.
        follow_symlinks: allow links that lead out of the image folder.
        check: how far the image files are looked at: see :func:`detfuse.data.images.check_images`.
        limit_images: keep the first images by id; the others' files are not looked at.
        grouping: keep or drop classes that have no box and only group others.

    Raises:
        DataError: naming the file, the record, what was expected and what to do.
    """
    checked = _Checked(records, images)
    index = checked.index(grouping).limit(limit_images)
    check_images(index, depth=check, follow_symlinks=follow_symlinks, place_of=checked.folder.place_of)
    checked.warn()
    return index


class _Checked:
    """Records that were gone through, as columns, with what was repaired in them."""

    def __init__(self, records: Records, images: str | Path | Sequence[Path]) -> None:
        self.source, self.form, self.has_areas = records.source, records.form, records.has_areas
        self.repairs = records.repairs
        self.notes: list[str] = []
        self.categories = self._categories(records.categories)
        self.label_of = {number: label for label, number in enumerate(self.categories.ids)}
        self.folder, self.images = located(records, images)
        self.texts = isinstance(self.images[0].id, str)
        self.position = {image.id: position for position, image in enumerate(self.images)}
        self.ids: list[int | None] = []
        self.places = array("q")  # of each box: position of its image, label, crowd, ignore
        self.numbers = array("d")  # likewise: x, y, width, height, area
        self.outside: list[tuple[int, Box, Size]] = []  # boxes that leave their images as they were: row, box, image
        self._boxes(records.boxes)

    def fail(self, record: str, problem: str) -> DataError:
        return DataError(f"{self.source}: {record}: {problem}")

    def warn(self) -> None:
        for what, names in self.repairs.items():
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            message = f"{self.source}: {len(names)} x {what}" + (f" ({shown})" if shown else "")
            warnings.warn(DataWarning(message, what, names), stacklevel=4)
        for note in self.notes:
            warnings.warn(f"{self.source}: {note}", DataWarning, stacklevel=4)

    def index(self, grouping: Grouping) -> AnnotationIndex:
        """What was gone through, with or without the classes that only group others."""
        numbers = np.array(self.numbers, np.float64).reshape(-1, 5)
        places = np.array(self.places, np.int64).reshape(-1, 4)
        kept = self._without_copies(numbers, places)
        numbers, places, ids = numbers[kept], places[kept], [self.ids[row] for row in kept.tolist()]
        order = np.argsort(places[:, 0], kind="stable")
        annotation_ids = np.array(self._numbered(ids), np.int64)[order]
        numbers, places = numbers[order], places[order]
        groups = self._groups(places[:, 1])
        categories, labels = self.categories, places[:, 1].copy()
        if 0 < len(groups) < len(categories) and grouping == "drop":
            categories, labels = _without(categories, groups, labels)
        return AnnotationIndex(
            source=self.source,
            form=self.form,
            root=self.folder.path,
            categories=categories,
            groups=tuple(self.categories.names[label] for label in groups) if grouping == "keep" else (),
            ids=tuple(image.id for image in self.images),
            file_names=tuple(image.file_name for image in self.images),
            sizes=np.array([image.size for image in self.images], np.int64),
            offsets=offsets_of(np.bincount(places[:, 0], minlength=len(self.images))),
            boxes=numbers[:, :4].copy(),
            labels=labels,
            crowd=places[:, 2].astype(np.bool_),
            ignore=places[:, 3].astype(np.bool_),
            areas=numbers[:, 4].copy(),
            annotation_ids=annotation_ids,
        )

    # ---- classes

    def _categories(self, records: Iterable[CategoryRecord]) -> Categories:
        names: dict[int, str] = {}
        self.group_of: dict[int, str | None] = {}
        for number, name, group in records:
            if names.get(number) == name:
                self.repairs["category listed twice, one was dropped"].append(f"{name!r} id {number}")
                continue
            if number in names:
                both = f"{names[number]!r} and {name!r}"
                raise self.fail(f"category {number}", f"this id is given twice, to {both}; give each its own id")
            names[number] = name
            self.group_of[number] = group
        if not names:
            raise DataError(f"{self.source}: the list of categories is empty: there is nothing to learn")
        counts = Counter(names.values())
        for number, name in names.items():
            if counts[name] > 1:
                names[number] = f"{name} (id {number})"
                self.repairs["category with a name that another id has too; the id was added to the name"].append(
                    f"{name!r} id {number}"
                )
        ids = tuple(sorted(names))
        return Categories(ids, tuple(names[number] for number in ids))

    def _groups(self, labels: IntArray) -> list[int]:
        """The labels without a box that others name as their group."""
        counts = np.bincount(labels, minlength=len(self.categories))
        own = self.categories.names
        named = {group for number, group in self.group_of.items() if group != own[self.label_of[number]]}
        return [label for label, name in enumerate(own) if name in named and not counts[label]]

    # ---- boxes

    def _boxes(self, records: Iterable[BoxRecord]) -> None:
        empty = True
        for record in _as_meant(records, self.repairs):
            empty = False
            position = self._position(record)
            if not is_integer(record.category_id) or record.category_id not in self.label_of:
                raise self._wrong(record, f"category_id {record.category_id!r} is not among the categories; declare it")
            if record.crowd is None:
                self.repairs["annotation without iscrowd, taken as 0"].append(record.name)
            size = self.images[position].size
            if record.relative:
                record = _scaled(record, size)
            box = self._clipped(record, size)
            if box is not record.box:
                self.outside.append((len(self.ids), record.box, size))
            if box is not None:
                self.places.extend((position, self.label_of[record.category_id], bool(record.crowd), record.ignore))
                self.numbers.extend((*box, self._area(record, box)))
                self.ids.append(record.id)
        if empty:
            self.repairs["list of annotations is empty: every image counts as one without objects, AP is undefined"] = [
                "no box at all"
            ]
        self._tell_what_is_hardly_meant()

    def _tell_what_is_hardly_meant(self) -> None:
        count = len(self.ids)
        if len(self.outside) > max(count / 4, 1) and self._may_be_corners():
            self.notes.append(
                "many boxes leave their images, and all would fit as corners: bbox is read as [x, y, width, height]; "
                "if the file has [x1, y1, x2, y2], convert it"
            )
        crowd, ignore = self.places[2::4], self.places[3::4]
        if count > 1 and all(crowd):
            self.notes.append(
                f"every one of {count} annotations is iscrowd 1: nothing is learnt, and AP is undefined; some tools "
                "(CVAT, from masks) write 1 for single objects: if these are, write iscrowd 0"
            )
        elif count > 1 and all(map(max, crowd, ignore)):
            self.notes.append(
                f"every one of {count} annotations is to be ignored (ignore, difficult, iscrowd): nothing is learnt, "
                "and AP is undefined; if these are the objects, write 0"
            )

    def _may_be_corners(self) -> bool:
        """Whether all boxes would lie in their images as corners."""
        inside = np.ones(len(self.ids) + 1, np.bool_)
        inside[[row for row, *_ in self.outside]] = False  # there they are clipped, or, if dropped, those after them
        boxes = np.array(self.numbers, np.float64).reshape(-1, 5)[inside[:-1], :4]
        places = np.array(self.places, np.int64).reshape(-1, 4)[inside[:-1], 0]
        sizes = np.array([image.size for image in self.images])[places]
        boxes = np.concatenate([boxes, [box for _, box, _ in self.outside]])
        sizes = np.concatenate([sizes, [size for *_, size in self.outside]])
        return bool(((boxes[:, :2] < boxes[:, 2:]) & (boxes[:, 2:] <= sizes[:, ::-1])).all())

    def _wrong(self, record: BoxRecord, problem: str) -> DataError:
        return self.fail(f"annotation {record.name}", problem)

    def _position(self, record: BoxRecord) -> int:
        """Of its image; the id must be of the images' kind: ``"3"`` and ``3`` are not the same id."""
        given = record.image_id
        of_kind = isinstance(given, str) if self.texts else is_integer(given)
        if of_kind and given in self.position:
            return self.position[given]
        remedy = "add the image or remove the annotation"
        if isinstance(given, int | str) and not of_kind:
            kind = "texts" if self.texts else "integers"
            remedy = f"the images' ids are {kind}: write it as the image's record does"
        raise self._wrong(record, f"image_id {given!r} is not among the images; {remedy}")

    def _clipped(self, record: BoxRecord, size: Size) -> Box | None:
        """The box as in the file, or what of it lies in the image if it leaves it by more than rounding, or None."""
        x, y, w, h = record.box
        if not all(map(math.isfinite, record.box)):
            raise self._wrong(record, f"bbox must be finite, got {list(record.box)}; correct or remove the record")
        if w < 0 or h < 0:
            raise self._wrong(
                record,
                f"bbox {list(record.box)} has a negative size; expected [x, y, width, height], not corners",
            )
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + w, float(size[1])), min(y + h, float(size[0]))
        if min(w, h) < MIN_SIDE:
            self.repairs["degenerate box dropped, width or height is 0: annotation"].append(record.name)
            return None
        if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
            self.repairs["box outside its image dropped: annotation"].append(record.name)
            return None
        if max(left - x, top - y, x + w - right, y + h - bottom) <= OVERSHOOT:
            return record.box
        self.repairs["box that leaves its image clipped to it: annotation"].append(record.name)
        return left, top, right - left, bottom - top

    def _area(self, record: BoxRecord, box: Box) -> float:
        area, full = record.area, box[2] * box[3]
        if area is None:
            if self.has_areas:
                self.repairs["annotation without area, computed as width x height"].append(record.name)
            return full
        if not is_number(area) or not 0 <= area <= MOST_AREA:
            raise self._wrong(record, f"area must be a number of square pixels, 0 to {MOST_AREA:g}, got {area!r}")
        if area == 0:
            self.repairs["annotation with area 0, computed as width x height"].append(record.name)
            return full
        if area > 2 * record.box[2] * record.box[3] + _RIM:
            self.repairs["annotation whose area is larger than its box, kept for APs, APm and APl"].append(record.name)
        return float(area) if box is record.box else min(float(area), full)

    def _without_copies(self, numbers: FloatArray, places: IntArray) -> IntArray:
        """The rows that stay: of records that are given twice, alike to the last number, the first."""
        given = [number for number in self.ids if number is not None]
        if len(set(given)) == len(given):
            return np.arange(len(self.ids))
        rows_of: dict[int | None, list[int]] = {}
        for row, number in enumerate(self.ids):
            rows_of.setdefault(number, []).append(row)
        dropped = set()
        for number, rows in rows_of.items():
            if number is None or len(rows) == 1:
                continue
            if (places[rows] != places[rows[0]]).any() or (numbers[rows] != numbers[rows[0]]).any():
                raise self.fail(f"annotation {number}", "this id is given twice; remove the copy or renumber")
            self.repairs["annotation listed twice, one was dropped"].append(str(number))
            dropped.update(rows[1:])
        return np.array([row for row in range(len(self.ids)) if row not in dropped], np.int64)

    def _numbered(self, ids: Sequence[int | None]) -> Sequence[int]:
        """The annotations' ids; counted anew where one is missing or not positive."""
        bad = ["none" if number is None else str(number) for number in ids if number is None or number < 1]
        if bad:
            self.repairs["annotation id missing or below 1; all were numbered anew from 1"] = bad
            return range(1, len(ids) + 1)
        return [number for number in ids if number is not None]


def _as_meant(records: Iterable[BoxRecord], repairs: Repairs) -> Iterable[BoxRecord]:
    """The boxes, taken as fractions of their images where not one of them can be meant in pixels."""
    rest = iter(records)
    small: list[BoxRecord] = []  # those before the first that is larger
    for record in rest:
        if record.relative or not _is_fraction(record.box):
            return itertools.chain(small, (record,), rest)
        small.append(record)
    if any(value % 1 for record in small for value in record.box):
        what = "box within 0..1 and none beyond: taken as fractions of width and height, not as pixels; annotation"
        repairs[what] = [record.name for record in small]
        return [record._replace(relative=True) for record in small]
    return small


def _is_fraction(box: Box) -> bool:
    x, y, w, h = box
    return x >= 0 and y >= 0 and x + w <= 1 + _ROUNDING and y + h <= 1 + _ROUNDING


def _scaled(record: BoxRecord, size: Size) -> BoxRecord:
    height, width = size
    x, y, w, h = record.box
    return record._replace(box=(x * width, y * height, w * width, h * height), area=None, relative=False)


def _without(categories: Categories, dropped: Sequence[int], labels: IntArray) -> tuple[Categories, IntArray]:
    """Categories without some labels that no annotation has, and the others' labels anew."""
    kept = [label for label in range(len(categories)) if label not in dropped]
    anew = np.zeros(len(categories), np.int64)
    anew[kept] = np.arange(len(kept))
    left = Categories(tuple(categories.ids[i] for i in kept), tuple(categories.names[i] for i in kept))
    return left, anew[labels]
