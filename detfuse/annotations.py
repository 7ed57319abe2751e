"""The nouns of evaluation as columns: what the images of a data set contain, and what a detector found in them.

Both speak the file's own ids, so that they can be joined with each other and written without looking anything up;
their rows have positions in place of ids, which cost eight bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from detfuse.structures import Categories, ImageId

MOST_AREA = 1e10
"""Square pixels that no object has: a larger area is a mistake, and would count the object among the large ones."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """I images and their A annotations; those of image i are rows ``offsets[i]:offsets[i + 1]``.

    Attributes:
        ids: (I,) the file's ids of the images, each once; all numbers or all texts.
        categories: label 0..K-1 to category id and name.
        offsets: (I + 1,) int64.
        boxes: (A, 4) float64 x, y, width, height in pixels, as in the file.
        labels: (A,) int64 in 0..K-1.
        crowd: (A,) bool, COCO's ``iscrowd``; detections on crowds count neither as right nor as wrong.
        ignore: (A,) bool, objects that nobody is asked to find: one that is found counts neither as right nor as
            wrong, one that is not is no miss. What overlaps one is measured by IoU, as with any object; a crowd takes
            any number of detections by how much of each lies in it.
        areas: (A,) float64 in square pixels, as in the file (COCO: of the segmentation); decides small, medium, large.
    """

    ids: tuple[ImageId, ...]
    categories: Categories
    offsets: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    ignore: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(I,) annotations per image, crowds included."""
        return np.diff(self.offsets)

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """(A,) whether each annotation is an object to be found: no crowd, and not to be ignored."""
        return ~(self.crowd | self.ignore)

    @property
    def images(self) -> npt.NDArray[np.int64]:
        """(A,) position of each annotation's image."""
        return np.repeat(np.arange(len(self)), self.counts)

    def rows(self, position: int) -> slice:
        """The annotations of the image at this position."""
        return slice(int(self.offsets[position]), int(self.offsets[position + 1]))

    def by_id(self) -> Annotations:
        """The same with the images in ascending order of their ids; itself where that is so."""
        order = sorted(range(len(self)), key=self.ids.__getitem__)
        if order == list(range(len(self))):
            return self
        counts = self.counts[order]
        rows = np.argsort(np.argsort(order)[self.images], kind="stable")
        return Annotations(
            ids=tuple(self.ids[position] for position in order),
            categories=self.categories,
            offsets=offsets_of(counts),
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            ignore=self.ignore[rows],
            areas=self.areas[rows],
        )


@dataclass(frozen=True, eq=False)
class Results:
    """D detections in the images of a data set, in the order in which they were given: of one image, best first.

    Attributes:
        ids: the file's ids of the images, each once; those without detections are there if they are known.
        category_ids: the file's ids of the categories.
        images: (D,) int64 position in ``ids``.
        labels: (D,) int64 position in ``category_ids``.
        boxes: (D, 4) float64 x, y, width, height in pixels of the file.
        scores: (D,) float64; NaN where a detector's outputs are not finite.
    """

    ids: tuple[ImageId, ...]
    category_ids: tuple[int, ...]
    images: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: npt.NDArray[Any]) -> Results:
        """The detections at a mask or at positions, of the same images."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            boxes=self.boxes[rows],
            scores=self.scores[rows],
        )

    def by_image(self) -> list[npt.NDArray[np.int64]]:
        """Of each image, its rows in their order."""
        order = np.argsort(self.images, kind="stable")
        bounds = offsets_of(np.bincount(self.images, minlength=len(self.ids)))
        return [order[start:end] for start, end in pairwise(bounds.tolist())]

    @classmethod
    def joined(cls, parts: Sequence[Results]) -> Results:
        """Results of one data set that were computed in parts, with the images in ascending order of their ids.

        Args:
            parts: at least one, with equal categories. An image that several of them have counts once, as the first
                has it.
        """
        owner: dict[ImageId, int] = {}
        for number, part in enumerate(parts):
            for image_id in part.ids:
                owner.setdefault(image_id, number)
        ids = tuple(sorted(owner))
        place = {image_id: position for position, image_id in enumerate(ids)}
        whole = []
        for number, part in enumerate(parts):
            places = np.array([place[i] if owner[i] == number else -1 for i in part.ids], np.int64)
            images = places[part.images]
            whole.append(replace(part, images=images).select(images >= 0))
        joined = cls(
            ids=ids,
            category_ids=parts[0].category_ids,
            images=np.concatenate([part.images for part in whole]),
            labels=np.concatenate([part.labels for part in whole]),
            boxes=np.concatenate([part.boxes for part in whole]),
            scores=np.concatenate([part.scores for part in whole]),
        )
        return joined.select(np.argsort(joined.images, kind="stable"))


def offsets_of(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(I,) rows per image -> (I + 1,) where each image's rows begin, and the end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
