"""What training does to an image, a step at a time.

Every step draws from a generator of its own, which depends on the sample and on the step's name alone: a step that is
added, removed or draws more often changes nothing for the others. (torchvision's own random transforms draw from the
process's global state, which differs with the number of workers; their functional forms do the work here, on uint8.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_area
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import BoundingBoxFormat

from detfuse.data.scene import Scene, Scenes
from detfuse.structures import Size

Generators = Callable[[str], np.random.Generator]
"""Name of a step -> its generator."""
Rule = Literal["smooth", "torchvision", "effdet"]
"""How images are resized; see :class:`Resize`."""

_XYXY = BoundingBoxFormat.XYXY
LONGEST = 16
"""Times its shorter side that an image's longer side may become where nothing else is asked for."""
_TURN = 4 / 3  # how much a crop's aspect may differ from the image's, as a factor


class Step(Protocol):
    """One of the things that are done to a scene; only cropping and resizing may change its size.

    Attributes:
        name: its own among the steps.
        scenes: the objects of how many scenes it may leave in one: 1, unless it takes in others.
    """

    name: str
    scenes: int

    def __call__(self, scene: Scene, generator: np.random.Generator, others: Scenes) -> Scene:
        """The scene afterwards; what was given is left as it is.

        Args:
            scene: as the step before left it.
            generator: this step's own for this sample: all its randomness comes from it.
            others: all scenes of the data set as they are in their files, by position; each is read when it is asked
                for.
        """
        ...


def generator_for(seed: int, epoch: int, index: int) -> Generators:
    """The generators of one training sample: counter-based ones, the same in every process."""

    def of_step(name: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, index, *name.encode()])))

    return of_step


class Crop:
    """Cut a part out of some of the images.

    Args:
        probability: of a crop.
        area: (low, high) share of the image's area that is kept; its aspect is 3/4 to 4/3 of the image's.
        keep: an object is kept if its centre lies in the crop, or if enough of it is visible; a crowd as long as any of
            it is seen.
        visible: share of a box's area that must remain with ``keep="visible"``.
    """

    name, scenes = "crop", 1

    def __init__(
        self, probability: float, area: tuple[float, float], keep: Literal["centre", "visible"], visible: float
    ) -> None:
        self.probability = probability
        self.area = area
        self.keep = keep
        self.visible = visible

    def __call__(self, scene: Scene, generator: np.random.Generator, others: Scenes) -> Scene:
        drawn, drawn_area, drawn_aspect, drawn_y, drawn_x = generator.random(5).tolist()
        if drawn >= self.probability:
            return scene
        height, width = scene.size
        low, high = self.area
        area = low + (high - low) * drawn_area
        turn = _TURN ** (drawn_aspect - 0.5)  # of each side, so that the crop's aspect changes by 3/4 to 4/3
        h = min(height, max(1, round(height * area**0.5 * turn)))
        w = min(width, max(1, round(width * area**0.5 / turn)))
        top, left = int(drawn_y * (height - h + 1)), int(drawn_x * (width - w + 1))
        moved, size = functional.crop_bounding_boxes(scene.objects.boxes, _XYXY, top, left, h, w, clamping_mode=None)
        seen = _clipped(moved, size)
        kept = (box_area(seen) > 0) & (self._keeps(moved, seen, size) | scene.objects.crowd)
        return scene._replace(
            image=functional.crop(scene.image, top, left, h, w),
            objects=scene.objects._replace(boxes=seen).select(kept),
            cut=True,
        )

    def _keeps(self, moved: Tensor, seen: Tensor, size: Size) -> Tensor:
        if self.keep == "visible":
            enough: Tensor = box_area(seen) >= self.visible * box_area(moved)
            return enough
        centre = (moved[:, :2] + moved[:, 2:]) / 2
        return ((centre >= 0) & (centre < torch.tensor(size[::-1]))).all(dim=1)

    def smallest(self, height: int, width: int) -> Size:
        """(height, width) of the crop that is nearest to a square."""
        # the long side keeps (area / turn)^.5 of itself, the short one (area * turn)^.5, but at most all
        turn = _TURN**0.5
        share = max(1 / turn, self.area[0] ** 0.5) / turn
        if height > width:
            return max(width, int(height * share)), width
        return height, max(height, int(width * share))

    def longest(self, short: int, long: int) -> float:
        """The most that a crop's side along ``long`` exceeds that along ``short``, as a factor; in whole pixels."""
        low, high = (area**0.5 for area in self.area)
        turn = _TURN**0.5  # of each side
        sides = np.arange(max(1, round(short * low / turn)), short + 1)  # of the crop, along `short`
        # The share of `short` that is kept, of those that are rounded to a side the one that leaves most of `long`.
        share = np.clip(high / turn, (sides - 0.5) / short, (sides + 0.5) / short)
        across = np.minimum(share * turn**2, high**2 / share)  # the share of `long`
        return float((np.clip(np.rint(long * across), 1, long) / sides).max())


class Resize:
    """Bring an image to its size; in training by a random factor more or less.

    Args:
        size: exact (height, width), whatever the aspect; None: by the sides.
        short_side: the shorter side in pixels.
        long_side: cap on the longer side; None: :data:`LONGEST` times the shorter one.
        jitter: (low, high) of the factor.
        rule: ``smooth`` rounds sides to the nearest pixel and weighs all pixels that one comes from, on uint8;
            ``torchvision`` does as its detectors do: it cuts sides off, reads four neighbours, and gives float32;
            ``effdet`` cuts sides off, weighs all pixels, by Pillow, and moves boxes by the factor asked for, which the
            cut sides do not quite have.
    """

    name, scenes = "resize", 1

    def __init__(
        self,
        size: Size | None,
        short_side: int,
        long_side: int | None,
        jitter: tuple[float, float],
        rule: Rule = "smooth",
    ) -> None:
        self.size = size
        self.short_side = short_side
        self.long_side = LONGEST * short_side if long_side is None else long_side
        self.jitter = jitter
        self.rule = rule

    def __call__(self, scene: Scene, generator: np.random.Generator, others: Scenes) -> Scene:
        low, high = self.jitter
        return self.by(scene, low + (high - low) * float(generator.random()))

    def by(self, scene: Scene, factor: float = 1.0) -> Scene:
        """The scene at the size that it gets, this factor larger."""
        size = self.target(*scene.size, factor)
        exact = None if self.size is not None or self.rule != "effdet" else self._scale(*scene.size) * factor
        return self.to(scene, size, self.rule, exact)

    def target(self, height: float, width: float, factor: float = 1.0) -> Size:
        """(height, width) that an image gets: at least one pixel."""
        if self.size is not None:
            return self.size
        scale = self._scale(height, width) * factor
        rest = 0.5 if self.rule == "smooth" else 0.0
        return max(1, int(height * scale + rest)), max(1, int(width * scale + rest))

    def _scale(self, height: float, width: float) -> float:
        return min(self.short_side / min(height, width), self.long_side / max(height, width))

    @staticmethod
    def to(scene: Scene, size: Size, rule: Rule = "smooth", exact: float | None = None) -> Scene:
        """The scene at a size; its boxes are moved by ``exact``, or by what the sides have changed."""
        if rule == "torchvision":
            scene = scene._replace(image=scene.image.float())  # rounded pixels would show in its scores
        if scene.size == size:
            return scene
        if exact is None:
            by = size[0] / scene.size[0], size[1] / scene.size[1]
            boxes, _ = functional.resize_bounding_boxes(scene.objects.boxes, scene.size, list(size), format=_XYXY)
        else:
            by, boxes = (exact, exact), scene.objects.boxes * exact
        return scene._replace(
            image=_resized(scene.image, size, rule),
            objects=scene.objects._replace(boxes=_clipped(boxes, size)),  # rounding may leave the image
            scale=(scene.scale[0] * by[0], scene.scale[1] * by[1]),
        )


class Flip:
    """Mirror some of the images, left and right.

    Args:
        probability: of a flip.
    """

    name, scenes = "flip", 1

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, scene: Scene, generator: np.random.Generator, others: Scenes) -> Scene:
        if generator.random() >= self.probability:
            return scene
        boxes = functional.horizontal_flip_bounding_boxes(scene.objects.boxes, _XYXY, scene.size)
        return scene._replace(
            image=functional.horizontal_flip(scene.image), objects=scene.objects._replace(boxes=boxes)
        )


class Colour:
    """Change one property of the colours by a random factor.

    Args:
        name: of the property.
        strength: the factor is drawn from 1 - strength to 1 + strength.
    """

    scenes = 1

    def __init__(self, name: Literal["brightness", "contrast", "saturation"], strength: float) -> None:
        self.name: str = name
        self.strength = strength

    def __call__(self, scene: Scene, generator: np.random.Generator, others: Scenes) -> Scene:
        factor = 1 + self.strength * (2 * float(generator.random()) - 1)
        adjust = getattr(functional, f"adjust_{self.name}")
        return scene._replace(image=adjust(scene.image, factor))


def _resized(image: Tensor, size: Size, rule: Rule) -> Tensor:
    if rule == "effdet":  # torch's pixels differ from Pillow's by up to two
        pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
        return torch.from_numpy(np.array(pixels.resize(size[::-1], Image.Resampling.BILINEAR))).permute(2, 0, 1)
    single = size == (1, 1)  # of bytes torch makes no single pixel: it takes them for another layout, and stops
    given = image.float() if single else image
    resized: Tensor = functional.resize(given, list(size), antialias=rule == "smooth")
    return resized.round().to(image.dtype) if single and image.dtype == torch.uint8 else resized


def _clipped(boxes: Tensor, size: Size) -> Tensor:
    inside: Tensor = functional.clamp_bounding_boxes(boxes, _XYXY, size, clamping_mode="hard")
    return inside
