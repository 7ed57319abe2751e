"""The map-style data set: (epoch, index) to a sample, without state, so that any worker gives the same answer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from detfuse.data.images import load_image
from detfuse.data.index import AnnotationIndex
from detfuse.data.transforms import Objects, Sample, Transforms, generator_for


class Key(NamedTuple):
    """Which image, and in which epoch: its augmentation depends on both."""

    epoch: int
    position: int


class DetectionDataset(Dataset[Sample]):
    """Decoded and transformed images of an annotation index.

    Args:
        index: the annotations.
        transform: what is done to an image.
        train: augment, or only resize.
        seed: of the augmentation.
    """

    def __init__(self, index: AnnotationIndex, transform: Transforms, *, train: bool, seed: int) -> None:
        self.index = index
        self.transform = transform
        self.train = train
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> Sample:
        """A pure function of the seed and the key.

        Raises:
            DataError: naming the file, if it cannot be decoded.
        """
        height, width = self.index.sizes[key.position].tolist()
        image = load_image(self.index.path(key.position), size=(height, width))
        objects = self.objects(key.position)
        image_id = self.index.number_of(key.position)
        if not self.train:
            return self.transform.evaluate(image, objects, image_id=image_id)
        generator = generator_for(self.seed, key.epoch, key.position)
        return self.transform.train(image, objects, generator, image_id=image_id)

    def objects(self, position: int) -> Objects:
        """What the image at this position contains, in pixels of the file."""
        return Objects(
            torch.from_numpy(self.index.boxes_xyxy(position)),
            torch.from_numpy(self.index.labels_of(position)),
            torch.from_numpy(self.index.crowd_of(position)),
        )
