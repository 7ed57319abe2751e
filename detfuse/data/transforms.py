"""From a decoded image and its boxes to a sample: resizing, and in training the steps before and after it."""

from __future__ import annotations

from math import prod
from typing import Literal

from torch import Tensor

from detfuse.data.scene import Objects, Sample, Scene, Scenes
from detfuse.data.steps import LONGEST, Colour, Crop, Flip, Generators, Resize, Rule, Step
from detfuse.errors import InputError
from detfuse.ranges import Fraction, PositiveFloat, PositiveFraction, PositiveInt, checked
from detfuse.structures import Size

MIN_SIDE = 1.0
"""Boxes that a crop left thinner than this, in pixels of the resized image, are dropped."""


@checked
class Transforms:
    """Resize in evaluation; crop, resize with jitter, flip and colour in training.

    Args:
        size: exact [height, width] of the resized image, whatever the aspect of the file: it is fed as it is, without
            padding (SSD: [300, 300]); None: by its sides, as follows.
        short_side: the resized image's shorter side in pixels; unused with ``size``.
        long_side: cap on its longer side (the shorter one then becomes smaller); None: 16 times ``short_side``, so that
            an image of a few rows cannot become a monstrous one; unused with ``size``.
        resize: ``smooth`` is antialiased and rounds sides to the nearest pixel; ``torchvision`` does as its detectors
            do, for their weights: no antialiasing, sides cut to whole pixels, after all other steps and in float32 (a
            batch takes four times the memory); ``effdet`` likewise: antialiased by Pillow, sides cut to whole pixels,
            boxes moved by the factor asked for.
        pad_multiple: batches are padded to a multiple of this, if it is one of the backbone's coarsest stride; None: of
            that. With as much as the longer side, all images become squares.
        flip: probability of a horizontal flip.
        scale_jitter: [low, high] factor on the resized size, drawn uniformly per image; None for none.
        crop: probability of a random crop, before resizing.
        crop_area: [low, high] share of the image's area that a crop keeps; its aspect is 3/4 to 4/3 of the image's.
        crop_keep: a cropped object is kept if its centre lies in the crop, or if enough of it is visible.
        crop_visible: share of a box's area that must remain with ``crop_keep="visible"``.
        brightness: factor drawn from 1 - x to 1 + x.
        contrast: likewise.
        saturation: likewise; hue is left alone, it costs ten times more than all others.

    Attributes:
        steps: what training does, in this order. A plain list: a step of one's own may be put into it (see
            :class:`detfuse.data.steps.Step`), and changes nothing that the others draw.

    Raises:
        ValueError: naming the argument that is out of range.
    """

    def __init__(
        self,
        *,
        size: tuple[PositiveInt, PositiveInt] | None = None,
        short_side: PositiveInt = 800,
        long_side: PositiveInt | None = 1333,
        resize: Rule = "smooth",
        pad_multiple: PositiveInt | None = None,
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
        if size is not None and pad_multiple is not None:
            raise InputError(f"pad_multiple={pad_multiple} has no effect on an exact size={size}: drop one of them")
        if size is not None and scale_jitter is not None:
            raise InputError(f"scale_jitter={scale_jitter} has no effect on an exact size={size}: drop one of them")
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.short_side = short_side
        self.long_side = long_side
        self.resize = resize
        self.pad_multiple = pad_multiple
        area = _range("crop_area", crop_area, highest=1.0)
        self._crop = Crop(crop, area, crop_keep, crop_visible) if crop else None
        jitter = _range("scale_jitter", scale_jitter or (1.0, 1.0), highest=10.0)
        self._resize = Resize(self.size, short_side, long_side, jitter, resize)
        self.steps: list[Step] = [self._resize]
        if self._crop is not None:
            self.steps.insert(0, self._crop)
        if flip:
            self.steps.append(Flip(flip))
        if brightness:
            self.steps.append(Colour("brightness", brightness))
        if contrast:
            self.steps.append(Colour("contrast", contrast))
        if saturation:
            self.steps.append(Colour("saturation", saturation))
        if resize == "torchvision":  # it leaves float32, and the others take uint8
            self.steps.append(self.steps.pop(self.steps.index(self._resize)))

    def resized(self, height: float, width: float) -> Size:
        """(height, width) that an image gets: at least one pixel, and equal for training without crop and jitter."""
        return self._resize.target(height, width)

    @property
    def longest_side(self) -> int:
        """The cap on the longer side, also where none was asked for; unused with an exact size."""
        return self._resize.long_side

    def is_extreme(self, height: int, width: int) -> bool:
        """Whether an image is so thin that its longer side is capped though nothing asked for it."""
        return self.size is None and self.long_side is None and max(height, width) > LONGEST * min(height, width)

    def smallest(self, height: int, width: int) -> Size:
        """(height, width) that an image gets in training at the least: cropped nearest to a square, jittered down."""
        cropped = (height, width) if self._crop is None else self._crop.smallest(height, width)
        return self._resize.target(*cropped, self._resize.jitter[0])

    def largest(self, height: int, width: int) -> list[Size]:
        """The largest (height, width) that training makes of an image: whatever it makes fits into one of them.

        A crop of another aspect is resized to the same shorter side, so it may become larger than the whole image does.
        There are two sizes where crops may lie and stand.
        """
        target, factor = self._resize.target, self._resize.jitter[1]
        if self.size is not None or self._crop is None:
            return [target(height, width, factor)]
        largest_at = self.longest_side / self.short_side  # longer by shorter side
        lying, standing = self._crop.longest(height, width), self._crop.longest(width, height)
        found = []
        if lying >= 1:  # an aspect from 1 / standing to lying
            found.append(target(1, min(max(largest_at, 1 / standing), lying), factor))
        if standing >= 1:
            found.append(target(min(max(largest_at, 1 / lying), standing), 1, factor))
        return found

    def divisor(self, size_divisor: int) -> int:
        """What batches are padded to a multiple of: ``size_divisor`` or a multiple of it; an exact size is not padded.

        Raises:
            InputError: if ``pad_multiple`` is none of ``size_divisor``.
        """
        if self.size is not None:
            return 1
        if self.pad_multiple is None:
            return size_divisor
        if self.pad_multiple % size_divisor:
            raise InputError(
                f"data.transform.pad_multiple={self.pad_multiple}: must be a multiple of {size_divisor}, the coarsest "
                "stride of the backbone"
            )
        return self.pad_multiple

    @property
    def scenes(self) -> int:
        """The objects of how many scenes training may leave in one."""
        return prod(step.scenes for step in self.steps)

    def evaluate(self, image: Tensor, objects: Objects | None = None, *, image_id: int = 0) -> Sample:
        """Resize only.

        Args:
            image: (3, H, W) uint8; resized by torchvision's rule it becomes float32, still of 0..255.
            objects: what it contains, if that is known.
            image_id: carried into the batch.
        """
        scene = Scene(image, objects or Objects.none())
        resized = self._resize.by(scene)
        return Sample(resized.image, resized.objects, scene.size, resized.scale, image_id)

    def train(
        self,
        image: Tensor,
        objects: Objects,
        generator: Generators,
        *,
        image_id: int = 0,
        others: Scenes = (),
    ) -> Sample:
        """Augment; the inputs are left as they are, and all randomness comes from ``generator``.

        The sample's ``scale`` is that of the resizing: after a crop, boxes cannot be mapped back to the file.

        Args:
            image: (3, H, W) uint8.
            objects: what it contains.
            generator: of each step, this sample's own (see :func:`detfuse.data.steps.generator_for`).
            image_id: carried into the batch.
            others: the scenes of the data set, for steps that take in others.
        """
        original = scene = Scene(image, objects)
        for step in self.steps:
            scene = step(scene, generator(step.name), others)
        objects = scene.objects
        if scene.cut:
            sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
            objects = objects.select((sides >= MIN_SIDE).all(dim=1))
        return Sample(scene.image, objects, original.size, scene.scale, image_id)


def _range(name: str, given: tuple[float, float], highest: float) -> tuple[float, float]:
    if len(given) != 2 or not 0 < given[0] <= given[1] <= highest:
        raise InputError(f"{name} must be [low, high] with 0 < low <= high <= {highest:g}, got {given}")
    return float(given[0]), float(given[1])
