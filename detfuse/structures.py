"""The nouns that the rooms exchange: what a feature level is, a batch, a target, a detection, a category map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detfuse.errors import InputError

ImageId = int | str
"""What an annotation file calls an image."""

Size = tuple[int, int]
"""(height, width) in pixels, of an image or a map."""


@dataclass(frozen=True)
class FeatureSpec:
    """Channels and strides of a list of feature maps, finest first.

    Args:
        channels: width of each map.
        strides: nominal down-sampling of each map against the image, ascending powers of two.

    Raises:
        ValueError: if the lists differ in length, are empty, or the strides are no ascending powers of two.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.channels or len(self.channels) != len(self.strides):
            raise InputError(f"a feature spec needs one width per stride, got {self.channels} and {self.strides}")
        if any(c < 1 for c in self.channels):
            raise InputError(f"channel counts must be positive, got {self.channels}")
        if any(s < 1 or s & (s - 1) for s in self.strides):
            raise InputError(f"strides must be powers of two, got {self.strides}")
        if any(a >= b for a, b in zip(self.strides, self.strides[1:], strict=False)):
            raise InputError(f"strides must ascend (finest level first), got {self.strides}")

    def __len__(self) -> int:
        return len(self.strides)

    @property
    def levels(self) -> tuple[int, ...]:
        """Level of each map: log2 of its stride, so that ``C3`` has stride 8."""
        return tuple(s.bit_length() - 1 for s in self.strides)


class Normalization(NamedTuple):
    """How images are standardised, per channel of RGB in 0..1: ``(image - mean) / std``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in self)
        return f"mean {mean}, std {std}"

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Normalization:
        """From any two sequences, such as a YAML's lists."""
        return cls(tuple(map(float, mean)), tuple(map(float, std)))


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Pretrained:
    """What of a backbone was read rather than drawn at random.

    Attributes:
        source: where from, for people: a name of the library, or a file.
        normalization: of the images that these weights expect.
        parameters: names of what was read, as the backbone's ``named_parameters`` has them. Names, not parameters: they
            hold in every copy of the backbone.
    """

    source: str
    normalization: Normalization
    parameters: frozenset[str]

    @staticmethod
    def of(backbone: object) -> Pretrained | None:
        """What a backbone says of itself; None if nothing was read, or if it does not say."""
        told = getattr(backbone, "pretrained", None)
        return told if isinstance(told, Pretrained) else None

    def as_dict(self) -> dict[str, Any]:
        """A plain container, as stored in checkpoints: see :meth:`from_dict`."""
        mean, std = map(list, self.normalization)
        return {"source": self.source, "mean": mean, "std": std, "parameters": sorted(self.parameters)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Pretrained:
        """Inverse of :meth:`as_dict`."""
        normalization = Normalization.of(plain["mean"], plain["std"])
        return cls(plain["source"], normalization, frozenset(plain["parameters"]))


class Targets(NamedTuple):
    """Ground truth of a batch, padded to N rows per image (N in buckets 8, 16, 32 ..., never 0).

    Attributes:
        boxes: (B, N, 4) float32, xyxy pixels of the resized image; padded rows are 0.
        labels: (B, N) int64 in 0..K-1; padded rows are 0.
        valid: (B, N) bool, rows that teach.
        ignore: (B, N) bool, crowds; never true where ``valid`` is. They are no objects, and what lies mostly in one is
            no background either (unless the head's ``crowd`` says so).
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    ignore: Tensor


class Batch(NamedTuple):
    """Images with all that is needed to train on them and to map detections back.

    Attributes:
        images: (B, 3, H, W) uint8 RGB, padded at the bottom and the right; float32 of 0..255 where they were resized by
            torchvision's rule.
        image_sizes: (B, 2) int64, (height, width) after resizing, before padding.
        original_sizes: (B, 2) int64, (height, width) of the file.
        scales: (B, 2) float32, resized / original as (y, x).
        image_ids: (B,) int64, the ids of the annotation file; where those are texts, the numbers that stand for them
            (see :meth:`detfuse.data.AnnotationIndex.id_of`).
        targets: what the images contain.
    """

    images: Tensor
    image_sizes: Tensor
    original_sizes: Tensor
    scales: Tensor
    image_ids: Tensor
    targets: Targets

    def picture(self, position: int) -> Tensor:
        """An image (3, H, W) with its padding as uint8, which can be drawn on."""
        return self.images[position].round().to(torch.uint8)


class Detections(NamedTuple):
    """Detections of one image, best first.

    Attributes:
        boxes: (M, 4) float32 xyxy pixels.
        scores: (M,) float32 in 0..1, descending; NaN before all others where the detector's outputs are not finite.
        labels: (M,) int64 in 0..K-1.
        levels: (M,) int64, position of the predicting map among the head's, 0 for the finest: an index, where
            :attr:`FeatureSpec.levels` names levels by the log2 of their stride.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    levels: Tensor

    @property
    def broken(self) -> bool:
        """Whether the detector's outputs were not finite somewhere in the image; asking waits for a GPU."""
        return bool(self.scores.isnan().any())

    def to_original(self, scale: Tensor, original_size: Tensor) -> Detections:
        """Map boxes from the resized image back to the file's pixels.

        Args:
            scale: (2,) resized / original as (y, x).
            original_size: (2,) (height, width) of the file; boxes are clipped to it.
        """
        y, x = scale.unbind()
        height, width = original_size.unbind()
        boxes = self.boxes / torch.stack([x, y, x, y]).to(self.boxes)
        limits = torch.stack([width, height, width, height]).to(self.boxes)
        return self._replace(boxes=boxes.clamp(min=0).minimum(limits))


@dataclass(frozen=True)
class Categories:
    """The classes of a data set: the label 0..K-1 is the position, ``ids`` are the file's (gaps allowed).

    Args:
        ids: category ids of the annotation file, ascending.
        names: one name per id.

    Raises:
        ValueError: if the lists differ in length, are empty, or an id or a name appears twice.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.ids or len(self.ids) != len(self.names):
            raise InputError(f"categories need one name per id, got {len(self.ids)} ids and {len(self.names)} names")
        given: dict[str, Counter[Any]] = {"id": Counter(self.ids), "name": Counter(self.names)}
        for what, counts in given.items():
            twice = [str(value) for value, count in counts.items() if count > 1]
            if twice:
                raise InputError(f"category {what} given twice: {', '.join(twice)}")

    def __len__(self) -> int:
        return len(self.ids)

    def as_dict(self) -> dict[str, Any]:
        """A plain container, as stored in checkpoints: see :meth:`from_dict`."""
        return {"ids": list(self.ids), "names": list(self.names)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Categories:
        """Inverse of :meth:`as_dict`."""
        return cls(tuple(plain["ids"]), tuple(plain["names"]))
