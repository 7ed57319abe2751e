"""Discs that look alike: which class they are tells only the colour of a lamp at a distance from all of them.

Nothing around a disc depends on its class: background, number, size, shade and place are drawn without regard to it. A
detector whose receptive field ends before the lamp can only guess one class of two, so its AP ends at about a half,
however well it finds the discs; one that brings the lamp's colour to the level that finds them has no such bound.

Two classes, not more: of three, a detector learns to tell one from the others long before it tells these two apart, and
when it does so is luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from detfuse.data.generators.canvas import Box, Canvas, Floats, snap
from detfuse.data.generators.generated import GeneratedData
from detfuse.data.generators.shapes import ObjectSide
from detfuse.data.layout import Split
from detfuse.errors import InputError
from detfuse.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, checked

LAMPS = {1: "red", 2: "blue"}
"""Category id to name: the lamp's colour."""

_LIGHT = {1: (225, 40, 40), 2: (50, 80, 225)}
_FROM_EDGE = 4.0  # pixels between the lamp and its edge, at most
_TRIES = 50  # to place a disc, before it is left out


@checked
@dataclass(frozen=True, kw_only=True)
class FarCue(GeneratedData):
    """What the generated discs depend on. The lamp hangs near an edge and is not annotated.

    Args:
        num_train: training images.
        num_val: validation images.
        image_size: height and width in pixels.
        min_size: smallest disc in pixels.
        max_size: largest disc in pixels.
        max_objects: most discs per image; at least one.
        lamp_size: the lamp in pixels.
        distance: least number of pixels, across or down, between the box of a disc and that of the lamp.
        data_seed: of the drawing; the seed of the training does not change the data.

    Raises:
        ValueError: if a number is out of range, or nothing is far enough from the lamp.
    """

    kind: ClassVar[str] = "far-cue"
    version: ClassVar[int] = 2
    categories: ClassVar[dict[int, str]] = LAMPS
    suffix: ClassVar[str] = ".png"  # JPEG's blocks would show a trace of the lamp 15 pixels away

    image_size: PositiveInt
    min_size: ObjectSide
    max_size: ObjectSide
    max_objects: PositiveInt
    lamp_size: ObjectSide
    distance: NonNegativeFloat
    data_seed: NonNegativeInt

    def __post_init__(self) -> None:
        needed = _FROM_EDGE + self.lamp_size + self.distance + self.max_size + 1
        if not self.min_size <= self.max_size or needed > self.image_size:
            raise InputError(
                "expected min_size <= max_size, and an image that holds the lamp, the distance and a disc beside each "
                f"other ({needed:g} pixels), got {self.min_size:g}, {self.max_size:g} and {self.image_size}"
            )

    def draw(self, split: Split, number: int) -> Canvas:
        entropy = [self.data_seed, ("train", "val").index(split), number]
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        canvas = Canvas(_background(generator, self.image_size))
        category = list(LAMPS)[number % len(LAMPS)]  # equally many images of each
        lamp = self._lamp(generator)
        canvas.paint("circle", lamp, np.array(_LIGHT[category]) + generator.uniform(-25, 25, 3))
        for _ in range(int(generator.integers(1, self.max_objects + 1))):
            side = snap(generator.uniform(self.min_size, self.max_size))
            shade = np.full(3, generator.uniform(200, 250))
            for _ in range(_TRIES):
                x, y = (snap(generator.uniform(0, self.image_size - side)) for _ in range(2))
                box = (x, y, side, side)
                if gap(box, lamp) >= self.distance and canvas.is_free(box, most=0):
                    canvas.record(category, box, canvas.paint("circle", box, shade))
                    break
        return canvas

    def _lamp(self, generator: np.random.Generator) -> Box:
        """Anywhere along any of the four edges."""
        free = self.image_size - self.lamp_size
        along, from_edge = snap(generator.uniform(0, free)), snap(generator.uniform(0, _FROM_EDGE))
        across = from_edge if generator.random() < 0.5 else free - from_edge
        x, y = (along, across) if generator.random() < 0.5 else (across, along)
        return x, y, self.lamp_size, self.lamp_size


def gap(one: Box, other: Box) -> float:
    """Pixels between two boxes, across or down, whichever is more; 0 if they overlap both ways."""
    (x, y, w, h), (a, b, c, d) = one, other
    return max(a - x - w, x - a - c, b - y - h, y - b - d, 0.0)


def _background(generator: np.random.Generator, size: int) -> Floats:
    """Grey that changes smoothly: one shade is drawn per 12 x 12 pixels, the rest is interpolated."""
    side = max(2, size // 12)
    coarse = generator.integers(70, 130, (side, side), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    return np.repeat(smooth[:, :, None], 3, axis=2)
