"""The embedded data set: shapes on a smooth background, drawn with antialiasing and annotated in COCO's form.

Objects over a wide range of scales, crowds, category ids with gaps, images without objects: all that real data has and
a demonstration usually lacks. An image is a function of the parameters, the split and its number.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from detfuse.errors import InputError
from detfuse.ranges import NonNegativeInt, PositiveInt, Range, checked

ObjectSide = Annotated[float, Range(at_least=4)]
"""Pixels; anything smaller could not be told apart."""
VERSION = 1
"""Raise it when the drawing changes: the folder's name depends on it."""

SHAPES = {2: "circle", 5: "rectangle", 9: "triangle"}
"""Category id to name, with gaps as in COCO."""

_SUB = 4  # subpixels per pixel and direction; positions lie on this grid, so boxes are exact
_EMPTY = (20, 3)  # every 20th image, starting with number 3, has no objects
_CROWDED = (32, 5)  # every 32nd, starting with number 5, has a crowd

_Floats = npt.NDArray[np.float64]


@checked
@dataclass(frozen=True, kw_only=True)
class SyntheticParameters:
    """What the generated data set depends on.

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

    num_train: PositiveInt
    num_val: PositiveInt
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

    @property
    def folder(self) -> str:
        """Name that differs whenever the data would."""
        text = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        return f"shapes-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def generate(root: Path, parameters: SyntheticParameters) -> Path:
    """Write the data set below ``root`` unless it is there; safe with several processes at once.

    Everything is written to a temporary folder beside the target, which is then renamed: a folder that has the final
    name is complete. Other parameters get another folder.

    Returns:
        The folder, with ``annotations/instances_{train,val}.json`` and ``images/{train,val}/``.
    """
    target = root / parameters.folder
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{parameters.folder}-", dir=root))
    try:
        draft.chmod(0o755)  # mkdtemp's is private to the user
        (draft / "parameters.json").write_text(json.dumps({"version": VERSION, **asdict(parameters)}, indent=2) + "\n")
        _write_split(draft, "train", parameters.num_train, parameters)
        _write_split(draft, "val", parameters.num_val, parameters)
        try:
            os.rename(draft, target)  # noqa: PTH104  atomic, and refused where another process was faster
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _write_split(folder: Path, split: Literal["train", "val"], number: int, parameters: SyntheticParameters) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    image_folder = folder / "images" / split
    image_folder.mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    size = parameters.image_size
    for i in range(number):
        canvas = draw(parameters, split, i)
        image_id = 2 * i + (1 if split == "train" else 2)
        name = f"{image_id:06d}.jpg"
        Image.fromarray(canvas.pixels.round().astype(np.uint8)).save(image_folder / name, quality=92)
        images.append({"id": image_id, "file_name": name, "height": size, "width": size})
        for record in canvas.records:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **record})
    categories = [{"id": id_, "name": name} for id_, name in SHAPES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@dataclass
class Canvas:
    """An image in the making: (H, W, 3) pixels in 0..255 and COCO records without ids."""

    pixels: _Floats
    records: list[dict[str, Any]] = field(default_factory=list)

    def is_free(self, box: tuple[float, float, float, float], most: float) -> bool:
        """Whether no earlier box shares more than ``most`` of the smaller of the two areas; crowds share nothing."""
        x, y, w, h = box
        for record in self.records:
            a, b, c, d = record["bbox"]
            shared = max(0.0, min(x + w, a + c) - max(x, a)) * max(0.0, min(y + h, b + d) - max(y, b))
            if shared > (0 if record["iscrowd"] else most) * min(w * h, c * d):
                return False
        return True

    def paint(self, shape: str, box: tuple[float, float, float, float], colour: _Floats) -> float:
        """Blend a shape over the pixels by its coverage; returns its area in pixels."""
        x, y, w, h = box
        left, top, right, bottom = int(x), int(y), int(np.ceil(x + w)), int(np.ceil(y + h))
        u = ((np.arange((right - left) * _SUB) + 0.5) / _SUB + left - x) / w * 2 - 1
        v = ((np.arange((bottom - top) * _SUB) + 0.5) / _SUB + top - y) / h * 2 - 1
        inside = _inside(shape, u[None, :], v[:, None])
        coverage = inside.reshape(bottom - top, _SUB, right - left, _SUB).mean(axis=(1, 3))
        area = float(coverage.sum())
        region = self.pixels[top:bottom, left:right]
        region += coverage[:, :, None] * (colour - region)
        return area

    def record(
        self, category: int, box: tuple[float, float, float, float], area: float, *, crowd: bool = False
    ) -> None:
        """Annotate a box."""
        self.records.append({"category_id": category, "bbox": list(box), "area": round(area, 4), "iscrowd": int(crowd)})


def draw(parameters: SyntheticParameters, split: Literal["train", "val"], number: int) -> Canvas:
    """One image of a split."""
    entropy = [parameters.data_seed, ("train", "val").index(split), number]
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
    canvas = Canvas(_background(generator, parameters.image_size))
    if number % _EMPTY[0] == _EMPTY[1]:
        return canvas
    if number % _CROWDED[0] == _CROWDED[1]:
        _draw_crowd(canvas, generator)
    low, high = np.log(parameters.min_size), np.log(parameters.max_size)
    for _ in range(int(generator.integers(1, parameters.max_objects + 1))):
        category = int(generator.choice(list(SHAPES)))
        colour = _colour(generator)
        side = float(np.exp(generator.uniform(low, high)))
        stretch = float(np.exp(generator.uniform(-0.15, 0.15)))
        w, h = (_snap(min(max(s, parameters.min_size), parameters.max_size)) for s in (side * stretch, side / stretch))
        for _ in range(10):
            x, y = (_snap(generator.uniform(0, parameters.image_size - s)) for s in (w, h))
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
        side = _snap(generator.uniform(0.08, 0.16) * extent)
        x, y = (_snap(o + generator.uniform(0, extent - side)) for o in origin)
        area += canvas.paint(SHAPES[category], (x, y, side, side), colour)
        boxes.append((x, y, x + side, y + side))
    corners = np.array(boxes)
    x, y = corners[:, :2].min(axis=0).tolist()
    right, bottom = corners[:, 2:].max(axis=0).tolist()
    box = (x, y, right - x, bottom - y)
    canvas.record(category, box, min(area, box[2] * box[3]), crowd=True)


def _background(generator: np.random.Generator, size: int) -> _Floats:
    """Smooth noise: one colour is drawn per 8 x 8 pixels, the rest is interpolated."""
    coarse = generator.integers(60, 196, (max(2, size // 8), max(2, size // 8), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64).copy()


def _colour(generator: np.random.Generator) -> _Floats:
    """Far from the background's mean grey in at least one channel."""
    while True:
        colour: _Floats = generator.uniform(0, 255, 3)
        if np.abs(colour - 128).max() > 70:
            return colour


def _inside(shape: str, u: _Floats, v: _Floats) -> npt.NDArray[np.bool_]:
    """Whether points of the box, in -1..1 from left to right and from top to bottom, lie in the shape."""
    box = (np.abs(u) <= 1) & (np.abs(v) <= 1)
    if shape == "circle":
        return box & (u**2 + v**2 <= 1)
    if shape == "triangle":
        return box & (2 * np.abs(u) <= v + 1)
    return box


def _snap(value: float) -> float:
    return int(value * _SUB) / _SUB
