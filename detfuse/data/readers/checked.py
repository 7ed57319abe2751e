"""From the records of any annotation file to an :class:`AnnotationIndex`, checked one by one.

A reader sees to the form: which keys a record has and of what type. Here their meaning is checked. Refused: what cannot
be understood or would train or score something else than what was meant. Repaired, with one warning per kind: what has
one sensible meaning. Told: what is legal, but hardly meant.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from detfuse.annotations import offsets_of
from detfuse.data.images import CheckImages, check_images
from detfuse.data.index import AnnotationIndex, DataError, DataWarning
from detfuse.data.readers.boxes import check_boxes
from detfuse.data.readers.located import located
from detfuse.data.readers.records import Boxes, CategoryRecord, Records
from detfuse.data.readers.refusals import Refusals
from detfuse.structures import Categories

Grouping = Literal["keep", "drop"]
"""What becomes of a class that only groups others."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reading:
    """What was read of a data set.

    Attributes:
        index: the annotations with their image files.
        told: what was repaired, and what is hardly meant.
        files: names of all image files, of those left out by a limit, too.
        first: the name, as the annotations have it, by which the folder of the images was chosen.
        renamed: a name that the annotations have -> that of the file which was found for it.
    """

    index: AnnotationIndex
    told: Sequence[DataWarning]
    files: Sequence[str]
    first: str
    renamed: Mapping[str, str]


def index_of(
    records: Records,
    images: str | Path | Sequence[Path],
    *,
    follow_symlinks: bool = False,
    check: CheckImages = "header",
    limit_images: int | None = None,
    grouping: Grouping = "keep",
) -> AnnotationIndex:
    """Check records and join them with their image files; what was repaired is told as warnings.

    Args:
        records: see :func:`read_records`, as for the others.
        images: folder of the images.
        follow_symlinks: allow links that lead out of it.
        check: how far the image files are looked at.
        limit_images: keep the first images by id.
        grouping: keep or drop classes that only group others.

    Raises:
        DataError: naming the file, the record, what was expected and what to do.
    """
    reading = read_records(
        records,
        images,
        follow_symlinks=follow_symlinks,
        check=check,
        limit_images=limit_images,
        grouping=grouping,
    )
    for warning in reading.told:
        warnings.warn(warning, stacklevel=3)
    return reading.index


def read_records(
    records: Records,
    images: str | Path | Sequence[Path],
    *,
    follow_symlinks: bool,
    check: CheckImages,
    limit_images: int | None,
    grouping: Grouping,
) -> Reading:
    """Check records and join them with their image files.

    Args:
        records: of an annotation file.
        images: folder of the images; of several, the first that holds the first image is taken.
        follow_symlinks: allow links that lead out of the image folder.
        check: how far the image files are looked at: see :func:`detfuse.data.images.check_images`.
        limit_images: keep the first images by id; the others' files are not looked at.
        grouping: keep or drop classes that have no box and only group others.

    Raises:
        DataError: naming the file, the records that cannot be used, what was expected and what to do.
    """
    checked = _Checked(records, images)
    index = checked.index(grouping).limit(limit_images)
    place_of = checked.found.folder.place_of
    turned = check_images(index, depth=check, follow_symlinks=follow_symlinks, place_of=place_of)
    found = checked.found
    files = [image.file_name for image in found.images]
    return Reading(index, [*turned, *checked.told()], files, found.first, found.renamed)


class _Checked:
    """Records that were gone through, as columns, with what was repaired in them."""

    def __init__(self, records: Records, images: str | Path | Sequence[Path]) -> None:
        self.source, self.form = records.source, records.form
        self.repairs = records.repairs
        self.refusals = records.refusals or Refusals(records.source)
        self.categories = self._categories(records.categories)
        self.found = located(records, images, self.refusals)
        self.boxes = check_boxes(
            records.boxes if isinstance(records.boxes, Boxes) else Boxes.of(records.boxes),
            position_of={image.id: position for position, image in enumerate(self.found.images)},
            sizes=np.array([image.size for image in self.found.images], np.int64),
            label_of={number: label for label, number in enumerate(self.categories.ids)},
            has_areas=records.has_areas,
            repairs=self.repairs,
            refusals=self.refusals,
        )
        self._without_copies()
        self.refusals.settle()

    def told(self) -> list[DataWarning]:
        warned = []
        for what, names in self.repairs.items():
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            message = f"{self.source}: {len(names)} x {what}" + (f" ({shown})" if shown else "")
            warned.append(DataWarning(message, what, names))
        return [*warned, *(DataWarning(f"{self.source}: {note}") for note in self.boxes.notes)]

    def index(self, grouping: Grouping) -> AnnotationIndex:
        """What was gone through, with or without the classes that only group others."""
        boxes = self.boxes
        order = np.argsort(boxes.positions, kind="stable")
        labels = boxes.labels[order]
        groups = self._groups(labels)
        categories = self.categories
        if 0 < len(groups) < len(categories) and grouping == "drop":
            categories, labels = _without(categories, groups, labels)
        return AnnotationIndex(
            source=self.source,
            form=self.form,
            root=self.found.folder.path,
            categories=categories,
            groups=tuple(self.categories.names[label] for label in groups) if grouping == "keep" else (),
            ids=tuple(image.id for image in self.found.images),
            file_names=tuple(image.file_name for image in self.found.images),
            sizes=np.array([image.size for image in self.found.images], np.int64),
            offsets=offsets_of(np.bincount(boxes.positions, minlength=len(self.found.images))),
            boxes=boxes.boxes[order],
            labels=labels,
            crowd=boxes.crowd[order],
            ignore=boxes.ignore[order],
            areas=boxes.areas[order],
            annotation_ids=np.array(self._numbered(boxes.ids), np.int64)[order],
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
                told = f"this id is given twice, to {both}; give each its own id"
                self.refusals.add(f"category {number}", told, "this id is given to two categories")
                continue
            names[number] = name
            self.group_of[number] = group
        if not names:
            self.refusals.settle()
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
        name_of = dict(zip(self.categories.ids, own, strict=True))
        named = {group for number, group in self.group_of.items() if group != name_of[number]}
        return [label for label, name in enumerate(own) if name in named and not counts[label]]

    # ---- ids of annotations

    def _without_copies(self) -> None:
        """Of records that are given twice, alike to the last number, the first stays."""
        given = [number for number in self.boxes.ids if number is not None]
        if len(set(given)) == len(given):
            return
        boxes = self.boxes
        numbers = np.column_stack([boxes.boxes, boxes.areas, boxes.positions, boxes.labels, boxes.crowd, boxes.ignore])
        first_of: dict[int, int] = {}
        kept = np.ones(len(numbers), np.bool_)
        for row, number in enumerate(boxes.ids):
            first = row if number is None else first_of.setdefault(number, row)
            if first == row:
                continue
            if (numbers[row] != numbers[first]).any():
                self.refusals.add(f"annotation {number}", "this id is given twice; remove the copy or renumber")
                continue
            self.repairs["annotation listed twice, one was dropped"].append(str(number))
            kept[row] = False
        self.boxes = boxes.only(kept)

    def _numbered(self, ids: Sequence[int | None]) -> Sequence[int]:
        """The annotations' ids; counted anew where one is missing or not positive."""
        bad = ["none" if number is None else str(number) for number in ids if number is None or number < 1]
        if bad:
            self.repairs["annotation id missing or below 1; all were numbered anew from 1"] = bad
            return range(1, len(ids) + 1)
        return [number for number in ids if number is not None]


def _without(categories: Categories, dropped: Sequence[int], labels: IntArray) -> tuple[Categories, IntArray]:
    """Categories without some labels that no annotation has, and the others' labels anew."""
    kept = [label for label in range(len(categories)) if label not in dropped]
    anew = np.zeros(len(categories), np.int64)
    anew[kept] = np.arange(len(kept))
    left = Categories(tuple(categories.ids[i] for i in kept), tuple(categories.names[i] for i in kept))
    return left, anew[labels]
