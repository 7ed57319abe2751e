"""The check of boxes, all at once: a mask of rows for each thing that may be wrong.

What is refused is gathered and does not stay, what is repaired is noted; all else passes through as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detfuse.annotations import MOST_AREA
from detfuse.data.readers.records import OVERSHOOT, Boxes, Repairs, is_integer
from detfuse.data.readers.refusals import Refusals
from detfuse.structures import ImageId

MIN_SIDE = 1e-3
"""Boxes thinner than this, in pixels, are degenerate: the logarithm of their size would explode."""

_ROUNDING = 0.01  # by which boxes in fractions may leave their image
_RIM = 16  # square pixels by which conventions differ in small boxes

Mask = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class CheckedBoxes(NamedTuple):
    """The boxes that stay, as columns in the order in which they were given.

    Attributes:
        ids: (A,) as the file has them.
        positions: (A,) of their images.
        labels: (A,) of their categories.
        boxes: (A, 4) x, y, width, height in pixels.
        areas: (A,) in square pixels.
        crowd: (A,) a group of objects.
        ignore: (A,) an object that nobody is asked to find.
        notes: what is legal, but of all together hardly meant.
    """

    ids: Sequence[int | None]
    positions: IntArray
    labels: IntArray
    boxes: FloatArray
    areas: FloatArray
    crowd: Mask
    ignore: Mask
    notes: list[str]

    def only(self, kept: Mask) -> CheckedBoxes:
        """Those of a mask (A,)."""
        return self._replace(
            ids=list(compress(self.ids, kept.tolist())),
            positions=self.positions[kept],
            labels=self.labels[kept],
            boxes=self.boxes[kept],
            areas=self.areas[kept],
            crowd=self.crowd[kept],
            ignore=self.ignore[kept],
        )


def check_boxes(
    boxes: Boxes,
    *,
    position_of: Mapping[ImageId, int],
    sizes: IntArray,
    label_of: Mapping[int, int],
    has_areas: bool,
    repairs: Repairs,
    refusals: Refusals,
) -> CheckedBoxes:
    """Check boxes, and repair what has one meaning.

    Args:
        boxes: as a reader made them.
        position_of: an image's id -> its position.
        sizes: (I, 2) height and width of each image.
        label_of: a category's id -> its label.
        has_areas: whether a box without an area is worth a word.
        repairs: where it is noted.
        refusals: where what is refused is gathered.
    """
    if not len(boxes):
        what = "list of annotations is empty: every image counts as one without objects, AP is undefined"
        repairs[what] = ["no box at all"]
    check = _Check(_as_meant(boxes, repairs), repairs, refusals)
    positions, labels = check.positions(position_of), check.labels(label_of)
    check.repair(_missing(boxes.crowd), "annotation without iscrowd, taken as 0")
    check.scale(sizes[positions])
    check.clip()
    areas = check.areas(has_areas)
    checked = CheckedBoxes(
        ids=boxes.ids,
        positions=positions,
        labels=labels,
        boxes=check.clipped,
        areas=areas,
        crowd=np.array(boxes.crowd, np.bool_),  # None is false
        ignore=boxes.ignore,
        notes=[],
    ).only(check.usable & ~check.dropped)
    return checked._replace(notes=[*check.hardly_meant(), *_teaches_nothing(checked.crowd, checked.ignore)])


class _Check:
    """Boxes under examination.

    Attributes:
        given: the boxes as they were given, in pixels once they are scaled.
        usable: (A,) not refused.
        dropped: (A,) nothing is left of them.
        cut: (A,) only a part of them is left.
        clipped: (A, 4) what is left of them.
    """

    def __init__(self, boxes: Boxes, repairs: Repairs, refusals: Refusals) -> None:
        self.boxes, self.repairs, self.refusals = boxes, repairs, refusals
        self.given = boxes.boxes
        self.usable = np.ones(len(boxes), np.bool_)

    def refuse(self, rows: npt.NDArray[Any] | np.bool_, told: Callable[[int], str], problem: str) -> None:
        rows = rows & self.usable
        self.refusals.add_all(
            np.flatnonzero(rows).tolist(), lambda row: f"annotation {self.boxes.name(row)}", told, problem
        )
        self.usable &= ~rows

    def repair(self, rows: Mask, what: str) -> None:
        rows = rows & self.usable
        if rows.any():
            self.repairs[what] += map(self.boxes.name, np.flatnonzero(rows).tolist())

    # ---- what they are of

    def positions(self, position_of: Mapping[ImageId, int]) -> IntArray:
        """Of their images; an id must be of the images' kind: ``"3"`` and ``3`` are not the same id."""
        given, kind = self.boxes.image_ids, type(next(iter(position_of)))
        positions = np.array([position_of.get(each, -1) if type(each) is kind else -1 for each in given], np.int64)

        def told(row: int) -> str:
            remedy = "add the image or remove the annotation"
            if isinstance(given[row], int | str) and (not isinstance(given[row], kind) or isinstance(given[row], bool)):
                kinds = "texts" if kind is str else "integers"
                remedy = f"the images' ids are {kinds}: write it as the image's record does"
            return f"image_id {given[row]!r} is not among the images; {remedy}"

        self.refuse(positions < 0, told, "image_id is not among the images")
        return positions

    def labels(self, label_of: Mapping[int, int]) -> IntArray:
        given = self.boxes.category_ids
        labels = np.array([label_of.get(each, -1) if type(each) is int else -1 for each in given], np.int64)

        def told(row: int) -> str:
            return f"category_id {given[row]!r} is not among the categories; declare it"

        self.refuse(labels < 0, told, "category_id is not among the categories")
        return labels

    # ---- where they are

    def scale(self, sizes: IntArray) -> None:
        """Take fractions of the images' sizes (A, 2) as pixels."""
        self.sizes = sizes.astype(np.float64)
        if self.boxes.relative.any():
            pixels = self.given * self.sizes[:, [1, 0, 1, 0]]
            self.given = np.where(self.boxes.relative[:, None], pixels, self.given)

    def clip(self) -> None:
        """Refuse what is no box, and see what of each lies in its image, if it leaves it by more than rounding."""
        given = self.given

        def told_finite(row: int) -> str:
            return f"bbox must be finite, got {given[row].tolist()}; correct or remove the record"

        def told_size(row: int) -> str:
            return f"bbox {given[row].tolist()} has a negative size; expected [x, y, width, height], not corners"

        self.refuse(~np.isfinite(given).all(axis=1), told_finite, "bbox must be finite")
        self.refuse((given[:, 2:] < 0).any(axis=1), told_size, "bbox has a negative size")
        with np.errstate(invalid="ignore", over="ignore"):  # of what was refused
            start, size = given[:, :2], given[:, 2:]
            end = start + size
            low = np.where(start < 0, 0.0, start)
            high = np.minimum(end, self.sizes[:, ::-1])
            degenerate = size.min(1, initial=np.inf) < MIN_SIDE
            self.dropped = degenerate | ((high - low) < MIN_SIDE).any(1)
            over = np.maximum(low - start, end - high).max(1, initial=0)
            self.cut = ~self.dropped & (over > OVERSHOOT)
            self.clipped = np.where(self.cut[:, None], np.concatenate([low, high - low], axis=1), given)
        self.repair(degenerate, "degenerate box dropped, width or height is 0: annotation")
        self.repair(self.dropped & ~degenerate, "box outside its image dropped: annotation")
        self.repair(self.cut, "box that leaves its image clipped to it: annotation")

    def areas(self, has_areas: bool) -> FloatArray:
        """In square pixels, of the boxes that stay."""
        given = self.boxes.areas
        areas = np.array([v if type(v) is float or is_integer(v) else np.nan for v in given], np.float64)
        missing = _missing(given) | self.boxes.relative
        stays = self.usable & ~self.dropped

        wrong = "area must be a number of square pixels"

        def told(row: int) -> str:
            return f"{wrong}, 0 to {MOST_AREA:g}, got {given[row]!r}"

        self.refuse(stays & ~missing & ~((areas >= 0) & (areas <= MOST_AREA)), told, wrong)
        if has_areas:
            self.repair(stays & missing, "annotation without area, computed as width x height")
        self.repair(stays & ~missing & (areas == 0), "annotation with area 0, computed as width x height")
        with np.errstate(invalid="ignore", over="ignore"):  # of what was refused
            full = self.clipped[:, 2] * self.clipped[:, 3]
            beyond = ~missing & (areas > 2 * self.given[:, 2] * self.given[:, 3] + _RIM)
        self.repair(stays & beyond, "annotation whose area is larger than its box, kept for APs, APm and APl")
        areas = np.where(missing | (areas == 0), full, areas)
        return np.where(self.cut, np.minimum(areas, full), areas)

    # ---- what is legal, but hardly meant

    def hardly_meant(self) -> list[str]:
        leaving = int((self.usable & (self.dropped | self.cut)).sum())
        count = int((self.usable & ~self.dropped).sum())
        if leaving <= max(count / 4, 1):
            return []
        boxes, sizes = self.given[self.usable], self.sizes[self.usable]
        if not ((boxes[:, :2] < boxes[:, 2:]) & (boxes[:, 2:] <= sizes[:, ::-1])).all():
            return []
        return [
            "many boxes leave their images, and all would fit as corners: bbox is read as [x, y, width, height]; "
            "if the file has [x1, y1, x2, y2], convert it"
        ]


def _teaches_nothing(crowd: Mask, ignore: Mask) -> list[str]:
    if len(crowd) < 2 or not (crowd | ignore).all():
        return []
    if crowd.all():
        return [
            f"every one of {len(crowd)} annotations is iscrowd 1: nothing is learnt, and AP is undefined; some tools "
            "(CVAT, from masks) write 1 for single objects: if these are, write iscrowd 0"
        ]
    return [
        f"every one of {len(crowd)} annotations is to be ignored (ignore, difficult, iscrowd): nothing is learnt, "
        "and AP is undefined; if these are the objects, write 0"
    ]


def _missing(values: Sequence[object]) -> Mask:
    return np.array([value is None for value in values], np.bool_)


def _as_meant(boxes: Boxes, repairs: Repairs) -> Boxes:
    """The boxes, taken as fractions of their images where not one of them can be meant in pixels."""
    given = boxes.boxes
    with np.errstate(invalid="ignore", over="ignore"):
        inside = (given[:, :2] >= 0) & (given[:, :2] + given[:, 2:] <= 1 + _ROUNDING)
    if boxes.relative.any() or not inside.all() or not (given % 1).any():
        return boxes
    what = "box within 0..1 and none beyond: taken as fractions of width and height, not as pixels; annotation"
    repairs[what] = list(map(boxes.name, range(len(boxes))))
    return replace(boxes, relative=np.ones(len(boxes), np.bool_))
