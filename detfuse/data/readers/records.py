"""From the records of any annotation file to an :class:`AnnotationIndex`, checked one by one.

A reader sees to the form: which keys a record has and of what type. Here their meaning is checked. Refused: what cannot
be understood or would train or score something else than what was meant. Repaired, with one warning per kind: what has
one sensible meaning.
"""

from __future__ import annotations

import itertools
import math
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from detfuse.annotations import MOST_AREA, offsets_of
from detfuse.data.images import CheckImages, check_images, header_sizes, relative_path_problem
from detfuse.data.index import AnnotationIndex, DataError, DataWarning
from detfuse.structures import Categories, ImageId, Size

MIN_SIDE = 1e-3
"""Boxes thinner than this, in pixels, are degenerate: the logarithm of their size would explode."""

_ROUNDING = 0.01  # by which boxes in fractions may leave their image

_RIM = 16  # square pixels by which conventions differ in small boxes

OVERSHOOT = 1.0
"""Pixels by which a box may leave its image without a word: COCO's own boxes do, by rounding."""


class CategoryRecord(NamedTuple):
    """A class of objects."""

    id: int
    name: str


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
class Records:
    """What a reader makes of an annotation file; the lists are gone through once, in this order.

    Attributes:
        source: the file, or the folder of the files, for messages.
        categories: in any order; labels follow the ascending order of the ids.
        images: in any order; their ids are all integers or all texts.
        boxes: in any order; that within an image is kept, for evaluators break ties by it.
        form: what people call the form of the file.
        has_areas: whether the form has areas of objects, so that one without is a fault.
    """

    source: Path
    categories: Iterable[CategoryRecord]
    images: Iterable[ImageRecord]
    boxes: Iterable[BoxRecord]
    form: str = ""
    has_areas: bool = True


def index_of(
    records: Records,
    images: str | Path | Sequence[Path],
    *,
    follow_symlinks: bool = False,
    check: CheckImages = "header",
    limit_images: int | None = None,
) -> AnnotationIndex:
    """Check records and join them with their image files.

    Args:
        records: of an annotation file.
        images: folder of the images; of several, the first that holds the first image is taken.
        follow_symlinks: allow links that lead out of the image folder.
        check: how far the image files are looked at: see :func:`detfuse.data.images.check_images`.
        limit_images: keep the first images by id; the others' files are not looked at.

    Raises:
        DataError: naming the file, the record, what was expected and what to do.
    """
    checked = _Checked(records, images)
    index = checked.index().limit(limit_images)
    check_images(index, depth=check, follow_symlinks=follow_symlinks)
    checked.warn()
    return index


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


class _Checked:
    """Records that were gone through, as columns, with what was repaired in them."""

    def __init__(self, records: Records, images: str | Path | Sequence[Path]) -> None:
        self.source, self.form, self.has_areas = records.source, records.form, records.has_areas
        self.repairs: defaultdict[str, list[str]] = defaultdict(list)
        self.categories = self._categories(records.categories)
        found = self._images(records.images)
        self.root = _image_root(self.source, images, min(image.file_name for image in found))
        self.images = self._sized(found)
        self.position = {image.id: position for position, image in enumerate(self.images)}
        self.ids: list[int | None] = []
        self.places = array("q")  # of each box: position of its image, label, crowd, ignore
        self.numbers = array("d")  # likewise: x, y, width, height, area
        self._boxes(records.boxes)

    def fail(self, record: str, problem: str) -> DataError:
        return DataError(f"{self.source}: {record}: {problem}")

    def warn(self) -> None:
        for what, names in self.repairs.items():
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            message = f"{self.source}: {len(names)} x {what}" + (f" ({shown})" if shown else "")
            warnings.warn(message, DataWarning, stacklevel=4)

    def index(self) -> AnnotationIndex:
        """What was gone through."""
        numbers = np.array(self.numbers, np.float64).reshape(-1, 5)
        places = np.array(self.places, np.int64).reshape(-1, 4)
        order = np.argsort(places[:, 0], kind="stable")
        numbers, places = numbers[order], places[order]
        return AnnotationIndex(
            source=self.source,
            form=self.form,
            root=self.root,
            categories=self.categories,
            ids=tuple(image.id for image in self.images),
            file_names=tuple(image.file_name for image in self.images),
            sizes=np.array([image.size for image in self.images], np.int64),
            offsets=offsets_of(np.bincount(places[:, 0], minlength=len(self.images))),
            boxes=numbers[:, :4].copy(),
            labels=places[:, 1].copy(),
            crowd=places[:, 2].astype(np.bool_),
            ignore=places[:, 3].astype(np.bool_),
            areas=numbers[:, 4].copy(),
            annotation_ids=np.array(self._numbered(), np.int64)[order],
        )

    def _categories(self, records: Iterable[CategoryRecord]) -> Categories:
        names: dict[int, str] = {}
        for number, name in records:
            if number in names:
                both = f"{names[number]!r} and {name!r}"
                raise self.fail(f"category {number}", f"this id is given twice, to {both}; give each its own id")
            names[number] = name
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

    def _images(self, records: Iterable[ImageRecord]) -> list[ImageRecord]:
        """In ascending order of the ids, texts in the order of the file."""
        found: dict[ImageId, ImageRecord] = {}
        seen_files: dict[str, ImageId] = {}
        for record in records:
            image, name = f"image {record.id}", record.file_name
            if record.id in found:
                raise self.fail(image, "this id is given to two images; give each its own id")
            problem = relative_path_problem(name)
            if problem is not None:
                shown = repr(name) if len(repr(name)) < 100 else repr(name)[:100] + "..."
                raise self.fail(image, f"file_name {shown} {problem}; expected a path inside the image folder")
            file = str(PurePosixPath(name))  # ./a.jpg is a.jpg
            if file in seen_files:
                self.repairs["image file listed under a second id, both were kept; it counts twice"].append(
                    f"{name}: ids {seen_files[file]} and {record.id}"
                )
            seen_files[file] = record.id
            found[record.id] = record
        if not found:
            raise DataError(f"{self.source}: the list of images is empty: nothing to train on or to evaluate")
        self.texts = isinstance(next(iter(found)), str)
        return list(found.values()) if self.texts else [found[number] for number in sorted(found)]

    def _sized(self, records: Sequence[ImageRecord]) -> list[_Image]:
        """With the sizes of their headers where the annotation file has none."""
        without = [record for record in records if record.height is None or record.width is None]
        paths = [self.root / record.file_name for record in without]
        sizes = iter(header_sizes(self.source, self.root, paths)) if without else iter(())
        return [
            _Image(r.id, r.file_name, next(sizes) if r.height is None or r.width is None else (r.height, r.width))
            for r in records
        ]

    def _boxes(self, records: Iterable[BoxRecord]) -> None:
        label_of = {number: label for label, number in enumerate(self.categories.ids)}
        empty = True
        for record in self._as_pixels(records):
            empty = False
            position = self._position(record)
            if not is_integer(record.category_id) or record.category_id not in label_of:
                raise self._wrong(record, f"category_id {record.category_id!r} is not among the categories; declare it")
            if record.crowd is None:
                self.repairs["annotation without iscrowd, taken as 0"].append(record.name)
            size = self.images[position].size
            if record.relative:
                record = _in_pixels(record, size)
            box = self._clipped(record, size)
            if box is not None:
                self.places.extend((position, label_of[record.category_id], bool(record.crowd), record.ignore))
                self.numbers.extend((*box, self._area(record, box)))
                self.ids.append(record.id)
        if empty:
            self.repairs["list of annotations is empty: every image counts as one without objects, AP is undefined"] = [
                "no box at all"
            ]

    def _as_pixels(self, records: Iterable[BoxRecord]) -> Iterator[BoxRecord]:
        """The boxes, taken as fractions of their images where not one of them can be meant in pixels."""
        rest = iter(records)
        small: list[BoxRecord] = []  # those before the first that is larger
        larger: list[BoxRecord] = []
        for record in rest:
            if record.relative or not _is_fraction(record.box):
                larger.append(record)
                break
            small.append(record)
        if small and not larger and any(value % 1 for record in small for value in record.box):
            what = "box within 0..1 and none beyond: taken as fractions of width and height, not as pixels; annotation"
            self.repairs[what] = [record.name for record in small]
            small = [record._replace(relative=True) for record in small]
        yield from itertools.chain(small, larger, rest)

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

    def _clipped(self, record: BoxRecord, size: Size) -> tuple[float, float, float, float] | None:
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

    def _area(self, record: BoxRecord, box: tuple[float, float, float, float]) -> float:
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
        return float(area) if box == record.box else min(float(area), full)

    def _numbered(self) -> Sequence[int]:
        """The annotations' ids; counted anew where one is missing or not positive."""
        for number, count in Counter(number for number in self.ids if number is not None).items():
            if count > 1:
                raise self.fail(f"annotation {number}", "this id is given twice; remove the copy or renumber")
        bad = ["none" if number is None else str(number) for number in self.ids if number is None or number < 1]
        if bad:
            self.repairs["annotation id missing or below 1; all were numbered anew from 1"] = bad
            return range(1, len(self.ids) + 1)
        return [number for number in self.ids if number is not None]


class _Image(NamedTuple):
    """An image whose size is known: height, width."""

    id: ImageId
    file_name: str
    size: Size


def _is_fraction(box: tuple[float, float, float, float]) -> bool:
    x, y, w, h = box
    return x >= 0 and y >= 0 and x + w <= 1 + _ROUNDING and y + h <= 1 + _ROUNDING


def _in_pixels(record: BoxRecord, size: Size) -> BoxRecord:
    height, width = size
    x, y, w, h = record.box
    return record._replace(box=(x * width, y * height, w * width, h * height), area=None, relative=False)


def _image_root(source: Path, images: str | Path | Sequence[Path], name: str) -> Path:
    candidates = [Path(images)] if isinstance(images, str | Path) else list(images)
    existing = [folder for folder in candidates if folder.is_dir()]
    if not existing:
        raise DataError(f"{source}: found no image folder; looked for {', '.join(map(str, candidates))}")
    return next((folder for folder in existing if (folder / name).exists()), existing[0])
