"""Boxes on pictures: what a detector is taught, and what it finds."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from detfuse.errors import InputError
from detfuse.structures import Batch, Categories, Detections, Targets

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]

WHITE: Final = (255, 255, 255)
BLACK: Final = (0, 0, 0)
SHORT_SIDE = 320  # smaller images are magnified, so that names can be read
MAGNIFIED_SIDE = 5120  # but not beyond this longer side: a strip of a few rows would become monstrous
_JPEG_SIDE = 65_500  # of JPEG the longest
TILE_SIDE = 800  # larger images are reduced in a grid
CROWDED = 12  # more boxes than that are left without names where these must not cover one another
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def draw_targets(batch: Batch, categories: Categories, max_images: int = 8) -> Tensor:
    """Grid of training images as the detector gets them, with their ground truth.

    Boxes are coloured by class and named; crowds are dashed; padding is hatched.

    Args:
        batch: at least one image, on any device.
        categories: names of the labels.
        max_images: draw only the first.

    Returns:
        (3, H, W) uint8.

    Raises:
        ValueError: if there is no image to draw.
    """
    if max_images < 1 or not len(batch.images):
        raise InputError(f"expected at least one image to draw, got {len(batch.images)} and max_images={max_images}")
    tiles = []
    for i in range(min(max_images, len(batch.images))):
        height, width = batch.image_sizes[i].tolist()
        canvas = _Canvas(_hatched(batch.picture(i).cpu(), height, width), TILE_SIDE)
        canvas.draw(_target_marks(Targets(*(column[i] for column in batch.targets)), categories))
        tiles.append(canvas.tensor())
    columns = {1: 1, 2: 2, 3: 3, 4: 2}.get(len(tiles), 4)
    grid: Tensor = make_grid(torch.stack(tiles), nrow=columns, padding=4, pad_value=255)
    return grid


def draw_detections(
    image: Tensor, detections: Detections, categories: Categories, *, threshold: float, targets: Targets | None = None
) -> Tensor:
    """One image with its detections, coloured by class, with name and score; the best lies on top.

    Args:
        image: (3, H, W) uint8, on any device.
        detections: boxes in pixels of ``image``.
        categories: names of the labels.
        threshold: draw only detections with at least this score.
        targets: ground truth of this one image (rows without the batch dimension), in pixels of ``image``: drawn thin
            and white, crowds dashed.

    Returns:
        (3, H', W') uint8; small images are magnified by a whole number.
    """
    canvas = _Canvas(image.cpu())
    if targets is not None:
        canvas.draw(mark._replace(name="", color=WHITE, thin=True) for mark in _target_marks(targets, categories))
    shown = (detections.scores >= threshold) & detections.boxes.isfinite().all(1)
    rows = shown.nonzero().flatten().flip(0)
    boxes, scores, labels = (column[rows].tolist() for column in detections[:3])
    canvas.draw(
        BoxMark(tuple(box), f"{categories.names[label]} {score:.2f}", class_color(label))
        for box, score, label in zip(boxes, scores, labels, strict=True)
    )
    return canvas.tensor()


def draw_marks(image: Tensor, marks: Sequence[BoxMark]) -> Tensor:
    """One image with boxes as they are given; the last lies on top.

    Names are written where they can be read: on a crowded picture not those of thin boxes, on a very crowded one none,
    and never over one another.

    Args:
        image: (3, H, W) uint8, on any device.
        marks: in pixels of ``image``.

    Returns:
        (3, H', W') uint8; small images are magnified by a whole number.
    """
    canvas = _Canvas(image.cpu(), large=True)
    named = (len(marks) <= CROWDED, len(marks) <= CROWDED // 2)  # of thick boxes, and of thin ones
    canvas.draw_apart([mark if named[mark.thin] else mark._replace(name="") for mark in marks])
    return canvas.tensor()


def save_picture(path: str | Path, image: Tensor) -> Path:
    """Write a picture as PNG or JPEG, by the suffix; a reader never sees half a file.

    Args:
        path: ends in .png, .jpg or .jpeg; its folder is created.
        image: (3, H, W) uint8.

    Raises:
        ValueError: if the suffix is another one or the tensor is no picture.
    """
    path = Path(path)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"cannot write a picture to {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    _check_picture(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            to_pil_image(image.cpu()).save(file, kind, **({"quality": 92} if kind == "JPEG" else {}))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


class BoxMark(NamedTuple):
    """One box to draw: xyxy pixels of the image; an empty name draws no label."""

    box: Box
    name: str
    color: Color
    dashed: bool = False
    thin: bool = False


class _Canvas:
    """An image at drawing size; marks are given in the image's own pixels. Large ones can be read in a row of four."""

    def __init__(self, image: Tensor, max_side: int | None = None, *, large: bool = False) -> None:
        _check_picture(image)
        picture = to_pil_image(image)
        short, long = sorted(picture.size)
        most = _JPEG_SIDE if max_side is None else max_side
        self.scale: float = min(-(-SHORT_SIDE // short), max(1, MAGNIFIED_SIDE // long))
        if long > most:
            self.scale = most / long
        if self.scale != 1:
            size = (max(1, round(picture.width * self.scale)), max(1, round(picture.height * self.scale)))
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        self.picture = picture
        self.pen = ImageDraw.Draw(picture)
        short = min(picture.size)
        self.width = max(2, round(short / (120 if large else 180)))
        self.thin = max(1, self.width - 1) if large else 1
        self.font = ImageFont.load_default(size=max(12, round(short / (24 if large else 32))))

    def draw(self, marks: Iterator[BoxMark]) -> None:
        """Boxes first, then the labels, so that no box crosses a name."""
        drawn = list(marks)
        for mark in drawn:
            self._box(mark)
        for mark in drawn:
            if mark.name:
                self._label(mark)

    def draw_apart(self, marks: Sequence[BoxMark]) -> None:
        """The same, but each name where it covers no other, the topmost box's first; what has no room is left out."""
        for mark in marks:
            self._box(mark)
        taken: list[tuple[int, int, int, int]] = []
        for mark in reversed(marks):
            places = self._places(mark) if mark.name else []
            place = next((one for one in places if not any(_overlap(one, other) for other in taken)), None)
            if place is not None:
                self._write(mark, place)
                taken.append(place)

    def tensor(self) -> Tensor:
        drawn: Tensor = pil_to_tensor(self.picture)
        return drawn

    def _corners(self, mark: BoxMark) -> tuple[int, int, int, int]:
        """Drawing pixels; at least 1 x 1, also for an empty box."""
        limits = (self.picture.width - 1, self.picture.height - 1) * 2
        x1, y1, x2, y2 = (min(max(round(v * self.scale), 0), m) for v, m in zip(mark.box, limits, strict=True))
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)

    def _box(self, mark: BoxMark) -> None:
        corners = self._corners(mark)
        width = self.thin if mark.thin else self.width
        if mark.dashed:
            self._dashed(corners, mark.color, width)
            return
        x1, y1, x2, y2 = corners
        # A dark rim on both sides keeps a colour visible on any ground.
        self.pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=BLACK, width=width + 2)
        self.pen.rectangle(corners, outline=mark.color, width=width)

    def _dashed(self, corners: tuple[int, int, int, int], color: Color, width: int) -> None:
        x1, y1, x2, y2 = corners
        dash, gap = 5 * width + 5, 2 * width + 2
        sides: list[tuple[int, int, Callable[[int, int], list[int]]]] = [
            (x1, x2, lambda a, b: [a, y1, b, y1 + width - 1]),
            (x1, x2, lambda a, b: [a, y2 - width + 1, b, y2]),
            (y1, y2, lambda a, b: [x1, a, x1 + width - 1, b]),
            (y1, y2, lambda a, b: [x2 - width + 1, a, x2, b]),
        ]
        for start, end, strip in sides:
            self._strip(strip(start, end), BLACK)
            for at in range(start, end + 1, dash + gap):
                self._strip(strip(at, min(at + dash - 1, end)), color)

    def _strip(self, corners: list[int], color: Color) -> None:
        x1, y1, x2, y2 = corners
        self.pen.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), fill=color)

    def _label(self, mark: BoxMark) -> None:
        """Name on a ground of the box's colour: above the box if there is room, else inside, always in the picture."""
        self._write(mark, self._places(mark)[0])

    def _places(self, mark: BoxMark) -> list[tuple[int, int, int, int]]:
        """Where a name may stand, the best first: above its box, inside, below; always in the picture."""
        x1, y1, _, y2 = self._corners(mark)
        left, top, right, bottom = self.pen.textbbox((0, 0), mark.name, font=self.font)
        width, height = int(right - left) + 6, int(bottom - top) + 5
        x = max(0, min(x1, self.picture.width - width))
        tops = [y1 - height, y1, y2 + 1]
        return [(x, y, x + width - 1, y + height - 1) for y in tops if 0 <= y <= max(self.picture.height - height, y1)]

    def _write(self, mark: BoxMark, place: tuple[int, int, int, int]) -> None:
        left, top, _, _ = self.pen.textbbox((0, 0), mark.name, font=self.font)
        self.pen.rectangle(place, fill=mark.color)
        ink = BLACK if _luminance(mark.color) > 0.45 else WHITE
        self.pen.text((place[0] + 3 - left, place[1] + 2 - top), mark.name, fill=ink, font=self.font)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _target_marks(targets: Targets, categories: Categories) -> Iterator[BoxMark]:
    """Rows that teach, then crowds; padded rows are left out."""
    columns = (targets.boxes, targets.labels, targets.valid, targets.ignore)
    for box, label, valid, ignore in zip(*(column.tolist() for column in columns), strict=True):
        if valid or ignore:
            name = categories.names[label] + (" (crowd)" if ignore else "")
            yield BoxMark(tuple(box), name, class_color(label), dashed=ignore)


def class_color(label: int) -> Color:
    """Of a class, in all pictures: bright ones that differ, hues a golden angle apart, three brightnesses in turn."""
    hue = (0.33 + label * 0.61803398875) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.6, 1.0)[label // 8 % 3], (1.0, 1.0, 0.75)[label // 8 % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def _luminance(color: Color) -> float:
    red, green, blue = color
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def _hatched(image: Tensor, height: int, width: int) -> Tensor:
    """The image with everything outside (height, width) drawn as diagonal stripes."""
    y, x = torch.meshgrid(torch.arange(image.shape[1]), torch.arange(image.shape[2]), indexing="ij")
    stripes = torch.where((x + y) % 16 < 8, 96, 64).to(torch.uint8).expand_as(image)
    return torch.where((y >= height) | (x >= width), stripes, image)


def _check_picture(image: Tensor) -> None:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise InputError(f"expected a uint8 picture (3, H, W), got {image.dtype} of shape {tuple(image.shape)}")
