"""The map-style data set: (epoch, index) to a sample, without state, so that any worker gives the same answer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from detfuse.data.images import load_image
from detfuse.data.index import AnnotationIndex
from detfuse.data.scene import Objects, Sample, Scene
from detfuse.data.steps import generator_for
from detfuse.data.transforms import Transforms


class Key(NamedTuple):
    """Which image, and in which epoch: its augmentation depends on both."""

    epoch: int
    position: int


class FileScenes:
    """The images of an index with their objects, as they are in the files; each is read when it is asked for.

    Args:
        index: the annotations.
    """

    def __init__(self, index: AnnotationIndex) -> None:
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Scene:
        """Decode.

        Raises:
            DataError: naming the file, if it cannot be decoded.
        """
        height, width = self.index.sizes[position].tolist()
        objects = Objects(
            torch.from_numpy(self.index.boxes_xyxy(position)),
            torch.from_numpy(self.index.labels_of(position)),
            torch.from_numpy(self.index.crowd_of(position)),
        )
        return Scene(load_image(self.index.path(position), size=(height, width)), objects)


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
        self.scenes = FileScenes(index)
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
        image, objects, *_ = self.scenes[key.position]
        image_id = self.index.number_of(key.position)
        if not self.train:
            return self.transform.evaluate(image, objects, image_id=image_id)
        generator = generator_for(self.seed, key.epoch, key.position)
        return self.transform.train(image, objects, generator, image_id=image_id, others=self.scenes)

    @property
    def most_objects(self) -> int:
        """In one sample."""
        fullest = int(self.index.counts.max())
        return fullest * self.transform.scenes if self.train else fullest
