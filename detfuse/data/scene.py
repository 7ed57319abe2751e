"""What the transforms work on: an image with its objects, on its way from the file to a sample."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from detfuse.structures import Size


class Objects(NamedTuple):
    """What an image contains.

    Attributes:
        boxes: (N, 4) float32 xyxy pixels.
        labels: (N,) int64.
        crowd: (N,) bool.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor

    @classmethod
    def none(cls) -> Objects:
        """Of an image without objects, or of one whose objects are unknown."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))

    def select(self, rows: Tensor) -> Objects:
        """The objects at a mask or at positions."""
        return Objects(self.boxes[rows], self.labels[rows], self.crowd[rows])


class Scene(NamedTuple):
    """An image as it is at some step.

    Attributes:
        image: (3, H, W) uint8 RGB.
        objects: boxes in pixels of ``image``.
        scale: how much it was resized so far, as (y, x).
        cut: whether it is only a part of what the file shows, so that little may be left of an object.
    """

    image: Tensor
    objects: Objects
    scale: tuple[float, float] = (1.0, 1.0)
    cut: bool = False

    @property
    def size(self) -> Size:
        """(height, width)."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])


class Scenes(Protocol):
    """Scenes by their position in a data set, such as a list of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Scene: ...


class Sample(NamedTuple):
    """One transformed image, before it is padded into a batch.

    Attributes:
        image: (3, H, W) uint8 RGB.
        objects: boxes in pixels of ``image``.
        original_size: (height, width) of the file.
        scale: resized / original as (y, x).
        image_id: what stands for the image in a batch.
    """

    image: Tensor
    objects: Objects
    original_size: Size
    scale: tuple[float, float]
    image_id: int
