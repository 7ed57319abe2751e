"""From a decoded image and its boxes to a sample: resizing, and in training crop, jitter, flip and colour.

Every random number of a sample is drawn beforehand, from a generator that belongs to it alone, and in a fixed order:
torchvision's own random transforms draw from the process's global state, which differs with the number of workers.
Their functional forms do the work, on uint8.
"""

from __future__ import annotations

from math import inf
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from detfuse.errors import InputError
from detfuse.ranges import Fraction, PositiveFloat, PositiveFraction, PositiveInt, checked

MIN_SIDE = 1.0
"""Boxes that a crop left thinner than this, in pixels of the resized image, are dropped."""

_TURN = 4 / 3  # how much a crop's aspect may differ from the image's, as a factor


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


class Sample(NamedTuple):
    """One transformed image, before it is padded into a batch.

    Attributes:
        image: (3, H, W) uint8 RGB.
        objects: boxes in pixels of ``image``.
        original_size: (height, width) of the file.
        scale: resized / original as (y, x).
        image_id: of the annotation file.
    """

    image: Tensor
    objects: Objects
    original_size: tuple[int, int]
    scale: tuple[float, float]
    image_id: int


class _Draws(NamedTuple):
    """The random numbers of one training sample, each uniform in 0..1."""

    crop: float
    crop_area: float
    crop_aspect: float
    crop_y: float
    crop_x: float
    scale: float
    flip: float
    brightness: float
    contrast: float
    saturation: float


@checked
class Transforms:
    """Resize in evaluation; crop, resize with jitter, flip and colour in training.

    Args:
        size: exact [height, width] of the resized image, whatever the aspect of the file: it is fed as it is, without
            padding (SSD: [300, 300]); None: by its sides, as follows.
        short_side: the resized image's shorter side in pixels; unused with ``size``.
        long_side: cap on its longer side (the shorter one then becomes smaller); None for no cap; unused with ``size``.
        flip: probability of a horizontal flip.
        scale_jitter: [low, high] factor on the resized size, drawn uniformly per image; None for none.
        crop: probability of a random crop, before resizing.
        crop_area: [low, high] share of the image's area that a crop keeps; its aspect is 3/4 to 4/3 of the image's.
        crop_keep: a cropped object is kept if its centre lies in the crop, or if enough of it is visible.
        crop_visible: share of a box's area that must remain with ``crop_keep="visible"``.
        brightness: factor drawn from 1 - x to 1 + x.
        contrast: likewise.
        saturation: likewise; hue is left alone, it costs ten times more than all others.

    Raises:
        ValueError: naming the argument that is out of range.
    """

    def __init__(
        self,
        *,
        size: tuple[PositiveInt, PositiveInt] | None = None,
        short_side: PositiveInt = 800,
        long_side: PositiveInt | None = 1333,
        flip: Fraction = 0.5,
        scale_jitter: tuple[PositiveFloat, PositiveFloat] | None = None,
        crop: Fraction = 0.0,
        crop_area: tuple[PositiveFraction, PositiveFraction] = (0.3, 1.0),
        crop_keep: Literal["centre", "visible"] = "centre",
        crop_visible: Fraction = 0.5,
        brightness: Fraction = 0.0,
        contrast: Fraction = 0.0,
        saturation: Fraction = 0.0,
    ) -> None:
        if long_side is not None and long_side < short_side:
            raise InputError(f"short_side must be at most long_side, got {short_side} and {long_side}")
        if size is not None and scale_jitter is not None:
            raise InputError(f"scale_jitter={scale_jitter} has no effect on an exact size={size}: drop one of them")
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.short_side = short_side
        self.long_side = long_side
        self.flip = flip
        self.scale_jitter = _range("scale_jitter", scale_jitter or (1.0, 1.0), highest=10.0)
        self.crop = crop
        self.crop_area = _range("crop_area", crop_area, highest=1.0)
        self.crop_keep = crop_keep
        self.crop_visible = crop_visible
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation

    def resized(self, height: float, width: float, factor: float = 1.0) -> tuple[int, int]:
        """(height, width) that an image gets: at least one pixel, and equal for training without crop and jitter."""
        if self.size is not None:
            return self.size
        scale = self.short_side / min(height, width)
        if self.long_side is not None:
            scale = min(scale, self.long_side / max(height, width))
        scale *= factor
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def smallest(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image gets in training at the least: cropped nearest to a square, jittered down."""
        if self.crop > 0:
            # the long side keeps (area / turn)^.5 of itself, the short one (area * turn)^.5, but at most all
            turn = _TURN**0.5
            share = max(1 / turn, self.crop_area[0] ** 0.5) / turn
            if height > width:
                height = max(width, int(height * share))
            else:
                width = max(height, int(width * share))
        return self.resized(height, width, self.scale_jitter[0])

    def largest(self, height: int, width: int) -> list[tuple[int, int]]:
        """The largest (height, width) that training makes of an image: whatever it makes fits into one of them.

        A crop of another aspect is resized to the same shorter side, so it may become larger than the whole image does.
        There are two sizes where crops may lie and stand.
        """
        factor = self.scale_jitter[1]
        if self.size is not None or not self.crop:
            return [self.resized(height, width, factor)]
        largest_at = inf if self.long_side is None else self.long_side / self.short_side  # longer by shorter side
        lying, standing = self._longest_crop(height, width), self._longest_crop(width, height)
        found = []
        if lying >= 1:  # an aspect from 1 / standing to lying
            found.append(self.resized(1, min(max(largest_at, 1 / standing), lying), factor))
        if standing >= 1:
            found.append(self.resized(min(max(largest_at, 1 / lying), standing), 1, factor))
        return found

    def _longest_crop(self, short: int, long: int) -> float:
        """The most that a crop's side along ``long`` exceeds that along ``short``, as a factor; in whole pixels."""
        low, high = (area**0.5 for area in self.crop_area)
        turn = _TURN**0.5  # of each side
        sides = np.arange(max(1, round(short * low / turn)), short + 1)  # of the crop, along `short`
        # The share of `short` that is kept, of those that are rounded to a side the one that leaves most of `long`.
        share = np.clip(high / turn, (sides - 0.5) / short, (sides + 0.5) / short)
        across = np.minimum(share * turn**2, high**2 / share)  # the share of `long`
        return float((np.clip(np.rint(long * across), 1, long) / sides).max())

    def divisor(self, size_divisor: int) -> int:
        """What batches are padded to a multiple of: ``size_divisor``, but an exact size is not padded."""
        return size_divisor if self.size is None else 1

    def evaluate(self, image: Tensor, objects: Objects | None = None, *, image_id: int = 0) -> Sample:
        """Resize only.

        Args:
            image: (3, H, W) uint8.
            objects: what it contains, if that is known.
            image_id: carried into the batch.
        """
        size = _size(image)
        target = self.resized(*size)
        resized, found = _resize(image, objects or Objects.none(), target)
        return Sample(resized, found, size, _scale(target, size), image_id)

    def train(self, image: Tensor, objects: Objects, generator: np.random.Generator, *, image_id: int = 0) -> Sample:
        """Augment; the inputs are left as they are, and all randomness comes from ``generator``.

        The sample's ``scale`` is that of the resizing: after a crop, boxes cannot be mapped back to the file.

        Args:
            image: (3, H, W) uint8.
            objects: what it contains.
            generator: this sample's own.
            image_id: carried into the batch.
        """
        draws = _Draws(*generator.random(len(_Draws._fields)).tolist())
        size = _size(image)
        if draws.crop < self.crop:
            image, objects = self._crop(image, objects, draws)
        seen = _size(image)
        low, high = self.scale_jitter
        target = self.resized(*seen, factor=low + (high - low) * draws.scale)
        image, objects = _resize(image, objects, target)
        if draws.flip < self.flip:
            image, objects = _flip(image, objects)
        image = self._colour(image, draws)
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        whole = draws.crop >= self.crop
        return Sample(
            image,
            objects if whole else objects.select((sides >= MIN_SIDE).all(dim=1)),
            size,
            _scale(target, seen),
            image_id,
        )

    def _crop(self, image: Tensor, objects: Objects, draws: _Draws) -> tuple[Tensor, Objects]:
        height, width = _size(image)
        low, high = self.crop_area
        area = low + (high - low) * draws.crop_area
        aspect = _TURN ** (draws.crop_aspect - 0.5)  # of each side, so that the crop's aspect changes by 3/4 to 4/3
        h = min(height, max(1, round(height * area**0.5 * aspect)))
        w = min(width, max(1, round(width * area**0.5 / aspect)))
        top, left = int(draws.crop_y * (height - h + 1)), int(draws.crop_x * (width - w + 1))
        moved = objects.boxes - torch.tensor([left, top, left, top], dtype=torch.float32)
        clipped = _clip(moved, (h, w))
        remains = _area(clipped) > 0
        if self.crop_keep == "centre":
            centre = (moved[:, :2] + moved[:, 2:]) / 2
            keep = ((centre >= 0) & (centre < torch.tensor([w, h]))).all(dim=1)
        else:
            keep = _area(clipped) >= self.crop_visible * _area(moved)
        kept = objects._replace(boxes=clipped).select(remains & (keep | objects.crowd))
        return functional.crop(image, top, left, h, w), kept

    def _colour(self, image: Tensor, draws: _Draws) -> Tensor:
        if self.brightness:
            image = functional.adjust_brightness(image, 1 + self.brightness * (2 * draws.brightness - 1))
        if self.contrast:
            image = functional.adjust_contrast(image, 1 + self.contrast * (2 * draws.contrast - 1))
        if self.saturation:
            image = functional.adjust_saturation(image, 1 + self.saturation * (2 * draws.saturation - 1))
        return image


def _range(name: str, given: tuple[float, float], highest: float) -> tuple[float, float]:
    if len(given) != 2 or not 0 < given[0] <= given[1] <= highest:
        raise InputError(f"{name} must be [low, high] with 0 < low <= high <= {highest:g}, got {given}")
    return float(given[0]), float(given[1])


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def _scale(target: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    return target[0] / size[0], target[1] / size[1]


def _area(boxes: Tensor) -> Tensor:
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return sides[:, 0] * sides[:, 1]


def _clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    return boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=boxes.dtype))


def _resize(image: Tensor, objects: Objects, target: tuple[int, int]) -> tuple[Tensor, Objects]:
    if _size(image) == target:
        return image, objects
    y, x = _scale(target, _size(image))
    boxes = _clip(objects.boxes * torch.tensor([x, y, x, y], dtype=torch.float32), target)  # rounding may leave it
    return functional.resize(image, list(target), antialias=True), objects._replace(boxes=boxes)


def _flip(image: Tensor, objects: Objects) -> tuple[Tensor, Objects]:
    width = image.shape[-1]
    x1, y1, x2, y2 = objects.boxes.unbind(dim=1)
    flipped = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    return functional.horizontal_flip(image), objects._replace(boxes=_clip(flipped, _size(image)))


def generator_for(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of one training sample: a counter-based one, the same in every process."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, index])))
