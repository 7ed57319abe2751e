"""The annotation index: a data set's annotations as a handful of arrays, cheap to hand to worker processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detfuse.errors import InputError
from detfuse.structures import Categories, ImageId


class DataError(InputError):
    """Something in the data set cannot be used; the message names the file, the record and the remedy."""


class DataWarning(UserWarning):
    """Something in the data set was repaired; the message names the file, the records and what was done."""


@dataclass(frozen=True, eq=False)
class AnnotationIndex:
    """I images, sorted by id, and their A annotations; those of image i are rows ``offsets[i]:offsets[i + 1]``.

    Where the file's image ids are texts, numbers stand for them in tensors: 1, 2, ... in the order of the file. Nothing
    that leaves the program holds such a number: :meth:`id_of` is the way back.

    Args:
        source: where the annotations came from, for messages.
        root: folder of the images.
        categories: label 0..K-1 to category id and name.
        file_names: (I,) paths of the images, relative to ``root``.
        image_ids: (I,) int64, ascending: the file's ids, or the numbers that stand for them.
        sizes: (I, 2) int64 (height, width) of the stored pixels.
        offsets: (I + 1,) int64.
        boxes: (A, 4) float64 x, y, width, height in pixels, as in the file.
        labels: (A,) int64 in 0..K-1.
        crowd: (A,) bool, COCO's ``iscrowd``.
        areas: (A,) float64 in square pixels, as in the file (COCO: of the segmentation).
        annotation_ids: (A,) int64, unique and positive.
        text_ids: (I,) the file's ids of the images where those are texts, else None.
    """

    source: Path
    root: Path
    categories: Categories
    file_names: tuple[str, ...]
    image_ids: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]
    annotation_ids: npt.NDArray[np.int64]
    text_ids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(I,) annotations per image, crowds included."""
        return np.diff(self.offsets)

    def id_of(self, number: int) -> ImageId:
        """The file's own id of an image, of the number that stands for it in ``image_ids`` and in a batch."""
        return number if self.text_ids is None else self.text_ids[number - 1]

    @property
    def ids(self) -> tuple[ImageId, ...]:
        """(I,) the images' ids as the file has them, in the order of the index."""
        return tuple(self.id_of(number) for number in self.image_ids.tolist())

    def path(self, position: int) -> Path:
        """File of the image at this position."""
        return self.root / self.file_names[position]

    def boxes_xyxy(self, position: int) -> npt.NDArray[np.float32]:
        """(N, 4) corners of one image's boxes, clipped to it; a fresh array."""
        height, width = self.sizes[position]
        boxes = self.boxes[self._rows(position)]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        return corners.clip(0, [width, height, width, height]).astype(np.float32)

    def labels_of(self, position: int) -> npt.NDArray[np.int64]:
        """(N,) labels of one image's boxes; a fresh array."""
        return self.labels[self._rows(position)].copy()

    def crowd_of(self, position: int) -> npt.NDArray[np.bool_]:
        """(N,) whether each of one image's boxes is a crowd; a fresh array."""
        return self.crowd[self._rows(position)].copy()

    def limit(self, num_images: int | None) -> AnnotationIndex:
        """The first images by id with their annotations; the index itself where None or where it has no more.

        Raises:
            DataError: if ``num_images`` is below 1.
        """
        if num_images is None or num_images >= len(self):
            return self
        if num_images < 1:
            raise DataError(f"limit_images must be at least 1, got {num_images}")
        end = int(self.offsets[num_images])
        return replace(
            self,
            file_names=self.file_names[:num_images],
            image_ids=self.image_ids[:num_images],
            sizes=self.sizes[:num_images],
            offsets=self.offsets[: num_images + 1],
            boxes=self.boxes[:end],
            labels=self.labels[:end],
            crowd=self.crowd[:end],
            areas=self.areas[:end],
            annotation_ids=self.annotation_ids[:end],
            text_ids=self.text_ids[:num_images] if self.text_ids else None,
        )

    def to_coco(self) -> dict[str, Any]:
        """COCO's ground-truth form with the file's ids and areas, crowds included: what an evaluator takes."""
        ids = self.ids
        images: list[dict[str, Any]] = [
            {"id": image_id, "file_name": name, "height": height, "width": width}
            for image_id, name, (height, width) in zip(ids, self.file_names, self.sizes.tolist(), strict=True)
        ]
        columns = zip(
            self.annotation_ids.tolist(),
            [ids[position] for position in np.repeat(np.arange(len(self)), self.counts).tolist()],
            self.labels.tolist(),
            self.boxes.tolist(),
            self.areas.tolist(),
            self.crowd.tolist(),
            strict=True,
        )
        annotations = [
            {
                "id": annotation_id,
                "image_id": image_id,
                "category_id": self.categories.ids[label],
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }
            for annotation_id, image_id, label, box, area, crowd in columns
        ]
        categories = [
            {"id": id_, "name": name} for id_, name in zip(self.categories.ids, self.categories.names, strict=True)
        ]
        return {"images": images, "annotations": annotations, "categories": categories}

    def summary(self) -> str:
        """One line: images, boxes, crowds."""
        empty = int((self.counts == 0).sum())
        num_crowds = int(self.crowd.sum())
        return (
            f"{len(self):,} images ({empty:,} without objects), {len(self.boxes) - num_crowds:,} boxes, "
            f"{num_crowds:,} crowds"
        )

    def _rows(self, position: int) -> slice:
        return slice(int(self.offsets[position]), int(self.offsets[position + 1]))
