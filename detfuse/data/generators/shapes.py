"""The embedded data set: shapes on a smooth background, drawn with antialiasing and annotated in COCO's form.

Objects over a wide range of scales, crowds, category ids with gaps, images without objects: all that real data has and
a demonstration usually lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from PIL import Image

from detfuse.data.generators.canvas import Canvas, Floats, snap
from detfuse.data.generators.generated import GeneratedData
from detfuse.data.layout import Split
from detfuse.errors import InputError
from detfuse.ranges import NonNegativeInt, PositiveInt, Range, checked

ObjectSide = Annotated[float, Range(at_least=4)]
"""Pixels; anything smaller could not be told apart."""

SHAPES = {2: "circle", 5: "rectangle", 9: "triangle"}
"""Category id to name, with gaps as in COCO."""

_EMPTY = (20, 3)  # every 20th image, starting with number 3, has no objects
_CROWDED = (32, 5)  # every 32nd, starting with number 5, has a crowd


@checked
@dataclass(frozen=True, kw_only=True)
class Shapes(GeneratedData):
    """What the generated shapes depend on.

    Args:
        num_train: training images.
        num_val: validation images.
        image_size: height and width in pixels.
        min_size: smallest object side in pixels; sides are log-uniform.
        max_size: largest object side in pixels.
        max_objects: most objects per image; at least one, but for every 20th image, which is empty.
        data_seed: of the drawing; the seed of the training does not change the data.

    Raises:
        ValueError: if a number is out of range.
    """

    kind: ClassVar[str] = "shapes"
    version: ClassVar[int] = 1
    categories: ClassVar[dict[int, str]] = SHAPES

    image_size: PositiveInt
    min_size: ObjectSide
    max_size: ObjectSide
    max_objects: PositiveInt
    data_seed: NonNegativeInt

    def __post_init__(self) -> None:
        if not self.min_size <= self.max_size <= self.image_size * 0.9:
            raise InputError(
                f"expected min_size <= max_size <= 90 % of image_size, got {self.min_size:g}, {self.max_size:g} "
                f"and {self.image_size}"
            )

    def draw(self, split: Split, number: int) -> Canvas:
        entropy = [self.data_seed, ("train", "val").index(split), number]
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        canvas = Canvas(_background(generator, self.image_size))
        if number % _EMPTY[0] == _EMPTY[1]:
            return canvas
        if number % _CROWDED[0] == _CROWDED[1]:
            _draw_crowd(canvas, generator)
        low, high = np.log(self.min_size), np.log(self.max_size)
        for _ in range(int(generator.integers(1, self.max_objects + 1))):
            category = int(generator.choice(list(SHAPES)))
            colour = _colour(generator)
            side = float(np.exp(generator.uniform(low, high)))
            stretch = float(np.exp(generator.uniform(-0.15, 0.15)))
            w, h = (snap(min(max(s, self.min_size), self.max_size)) for s in (side * stretch, side / stretch))
            for _ in range(10):
                x, y = (snap(generator.uniform(0, self.image_size - s)) for s in (w, h))
                if canvas.is_free((x, y, w, h), most=0.3):
                    canvas.record(category, (x, y, w, h), canvas.paint(SHAPES[category], (x, y, w, h), colour))
                    break
        return canvas


def _draw_crowd(canvas: Canvas, generator: np.random.Generator) -> None:
    """Many small shapes of one kind, too close to be told apart, annotated as one region."""
    image_size = canvas.pixels.shape[0]
    category = int(generator.choice(list(SHAPES)))
    colour = _colour(generator)
    extent = image_size * generator.uniform(0.3, 0.45)
    origin = generator.uniform(0, image_size - extent, 2)
    boxes = []
    area = 0.0
    for _ in range(int(generator.integers(15, 31))):
        side = snap(generator.uniform(0.08, 0.16) * extent)
        x, y = (snap(o + generator.uniform(0, extent - side)) for o in origin)
        area += canvas.paint(SHAPES[category], (x, y, side, side), colour)
        boxes.append((x, y, x + side, y + side))
    corners = np.array(boxes)
    x, y = corners[:, :2].min(axis=0).tolist()
    right, bottom = corners[:, 2:].max(axis=0).tolist()
    box = (x, y, right - x, bottom - y)
    canvas.record(category, box, min(area, box[2] * box[3]), crowd=True)


def _background(generator: np.random.Generator, size: int) -> Floats:
    """Smooth noise: one colour is drawn per 8 x 8 pixels, the rest is interpolated."""
    coarse = generator.integers(60, 196, (max(2, size // 8), max(2, size // 8), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64).copy()


def _colour(generator: np.random.Generator) -> Floats:
    """Far from the background's mean grey in at least one channel."""
    while True:
        colour: Floats = generator.uniform(0, 255, 3)
        if np.abs(colour - 128).max() > 70:
            return colour
