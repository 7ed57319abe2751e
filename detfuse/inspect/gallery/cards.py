"""Images as they lie and as training sees them, small, with their objects."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from detfuse.data import AnnotationIndex, DataError, Objects, Transforms
from detfuse.data.dataset import DetectionDataset, FileScenes, Key
from detfuse.data.layout import Split

_SIDE, _QUALITY = 360, 80  # of the pictures: about 20 KB each


class View(NamedTuple):
    """A picture with its objects.

    Attributes:
        jpeg: the picture, perhaps smaller.
        size: (height, width) in pixels of the boxes.
        objects: boxes, labels, crowds.
        scale: from pixels of the boxes to pixels of the resized image that a detector sees, as (y, x).
    """

    jpeg: bytes
    size: tuple[int, int]
    objects: Objects
    scale: tuple[float, float]


class Card(NamedTuple):
    """An image of a split.

    Attributes:
        split: which.
        name: of its file.
        views: as it lies, and as it is fed; none if it cannot be read.
        problem: why it cannot be.
    """

    split: Split
    name: str
    views: tuple[View, ...]
    problem: str = ""


def cards_of(split: Split, index: AnnotationIndex, transform: Transforms, *, number: int, seed: int) -> Iterator[Card]:
    """Some images of a split, in its order: of every class one, if they suffice, the others at equal distances.

    Args:
        split: that of training is augmented.
        index: of the split.
        transform: what is done to the images.
        number: how many, at most.
        seed: of the augmentation, in the first epoch.
    """
    files = FileScenes(index)
    fed = DetectionDataset(index, transform, train=split == "train", seed=seed)
    for position in chosen(index, number):
        name = index.file_names[position]
        try:
            image, objects, *_ = files[position]
            sample = fed[Key(0, position)]
        except DataError as error:
            yield Card(split, name, (), str(error))
            continue
        height, width = image.shape[1:]
        resized = transform.resized(height, width)
        lies = View(_jpeg(image), (height, width), objects, (resized[0] / height, resized[1] / width))
        size = sample.image.shape[1], sample.image.shape[2]
        seen = View(_jpeg(sample.image), size, sample.objects, (1.0, 1.0))
        yield Card(split, name, (lies, seen))


def chosen(index: AnnotationIndex, number: int) -> list[int]:
    """Positions of the images that are shown: half of them at most for the sake of a class, the rarest first."""
    number = min(number, len(index))
    images = index.images
    found: dict[int, None] = {}
    counts = np.bincount(index.labels, minlength=len(index.categories))
    for label in np.argsort(counts, kind="stable").tolist():
        having = images[index.labels == label]
        if len(found) < number // 2 and len(having) and not found.keys() & set(having.tolist()):
            found[int(having[0])] = None
    for share in range(number):  # as many as there may be, since some are there already
        if len(found) < number:
            found[share * len(index) // number] = None
    for position in range(len(index)):
        if len(found) < number:
            found[position] = None
    return sorted(found)


def _jpeg(image: Tensor) -> bytes:
    picture = to_pil_image(image)
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
