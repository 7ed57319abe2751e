"""An image in the making, with what was drawn on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""

Floats = npt.NDArray[np.float64]

_SUB = 4  # subpixels per pixel and direction; positions lie on this grid, so boxes are exact


@dataclass
class Canvas:
    """An image in the making: (H, W, 3) pixels in 0..255 and COCO records without ids."""

    pixels: Floats
    records: list[dict[str, Any]] = field(default_factory=list)

    def is_free(self, box: Box, most: float) -> bool:
        """Whether no earlier box shares more than ``most`` of the smaller of the two areas; crowds share nothing."""
        x, y, w, h = box
        for record in self.records:
            a, b, c, d = record["bbox"]
            shared = max(0.0, min(x + w, a + c) - max(x, a)) * max(0.0, min(y + h, b + d) - max(y, b))
            if shared > (0 if record["iscrowd"] else most) * min(w * h, c * d):
                return False
        return True

    def paint(self, shape: str, box: Box, colour: Floats) -> float:
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

    def record(self, category: int, box: Box, area: float, *, crowd: bool = False) -> None:
        """Annotate a box."""
        self.records.append({"category_id": category, "bbox": list(box), "area": round(area, 4), "iscrowd": int(crowd)})


def snap(value: float) -> float:
    """To the grid of subpixels."""
    return int(value * _SUB) / _SUB


def _inside(shape: str, u: Floats, v: Floats) -> npt.NDArray[np.bool_]:
    """Whether points of the box, in -1..1 from left to right and from top to bottom, lie in the shape."""
    box = (np.abs(u) <= 1) & (np.abs(v) <= 1)
    if shape == "circle":
        return box & (u**2 + v**2 <= 1)
    if shape == "triangle":
        return box & (2 * np.abs(u) <= v + 1)
    return box
