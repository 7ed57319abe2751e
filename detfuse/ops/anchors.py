"""Where the priors lie: grids of points, and anchors around them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detfuse.structures import Size

_UNITS = 2.0**40  # per 1, of numbers in fixed point


def grid_points(size: Size, stride: float | tuple[float, float], offset: float, device: torch.device) -> Tensor:
    """One point per cell of a map, row by row.

    Args:
        size: (H, W) of the map.
        stride: nominal stride of the map in pixels, or (y, x); its true ratio to the image may differ at odd sizes.
        offset: place within the cell in strides: 0 is its upper left corner, .5 its middle.
        device: where to put them.

    Returns:
        (H * W, 2) float32, (x, y) in pixels.
    """
    height, width = size
    down, across = stride if isinstance(stride, tuple) else (stride, stride)
    y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * down
    x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * across
    return torch.stack([x[None].expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2)


def octave_sizes(base: float, scales_per_octave: int) -> list[float]:
    """Sizes ``base * 2**(i / scales_per_octave)`` from ``base`` up to, without, its double."""
    return [base * 2 ** (i / scales_per_octave) for i in range(scales_per_octave)]


def anchor_sizes(
    strides: Sequence[int], single_level: Sequence[int], scale: float, per_octave: int
) -> list[list[float]]:
    """Sizes of the anchors of each level, in pixels.

    Args:
        strides: of the levels; if there is one only, it carries the anchors of other levels too.
        single_level: which, as log2 of the stride.
        scale: a level's smallest size in strides.
        per_octave: sizes between one level and the next.
    """
    carried = [[stride] for stride in strides] if len(strides) > 1 else [[2**level for level in single_level]]
    return [[size for stride in own for size in octave_sizes(scale * stride, per_octave)] for own in carried]


def anchors_at_origin(sizes: Sequence[float], aspect_ratios: Sequence[float], *, whole: bool = False) -> Tensor:
    """Anchors of one cell, centred at 0.

    Args:
        sizes: square roots of the areas, in pixels.
        aspect_ratios: heights / widths.
        whole: cut the sizes to whole pixels and round the corners, as torchvision does.

    Returns:
        (R * S, 4) float32 xyxy, ratio by ratio and sizes within (torchvision's order, so that its weights fit).
    """
    ratios = torch.tensor(aspect_ratios, dtype=torch.float64).sqrt()[:, None]
    edge = torch.tensor(sizes, dtype=torch.float64)
    edge = edge.floor() if whole else edge
    width, height = (edge / ratios).flatten(), (edge * ratios).flatten()
    anchors = (torch.stack([-width, -height, width, height], dim=1) / 2).float()
    return anchors.round() if whole else anchors


def shaped_anchors(sizes: Sequence[Sequence[float]], shapes: Sequence[tuple[float, float]]) -> Tensor:
    """Anchors of one cell of every level, centred at 0.

    Args:
        sizes: per level S of them, in pixels.
        shapes: (width, height) in sizes.

    Returns:
        (L, S * R, 4) xyxy in fixed point, size by size and shapes within (effdet's order, so that its weights fit).
    """
    halves = torch.tensor(shapes, dtype=torch.float64).reshape(-1, 2) / 2
    corner = (torch.tensor(sizes, dtype=torch.float64)[..., None, None] * halves).flatten(1, 2)
    return to_fixed_point(torch.cat([-corner, corner], dim=-1))


def anchors_of_levels(
    sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float], *, whole: bool = False
) -> Tensor:
    """:func:`anchors_at_origin` of every level, (L, R * S, 4) in fixed point."""
    return to_fixed_point(torch.stack([anchors_at_origin(of_level, aspect_ratios, whole=whole) for of_level in sizes]))


def grid_anchors(at_origin: Tensor, points: Tensor) -> Tensor:
    """The anchors of each point: (P, 2) points and (n, 4) anchors to (P * n, 4), point by point."""
    return (points.repeat(1, 2)[:, None] + at_origin).reshape(-1, 4)


def default_box_shapes(scale: float, next_scale: float, aspect_ratios: Sequence[float]) -> Tensor:
    """Widths and heights of SSD's default boxes of one cell, as fractions of the image (at most 1).

    Args:
        scale: of the level: side of its square.
        next_scale: of the level after it: the extra square is between the two.
        aspect_ratios: each gives a wide and a tall box of the square's area.

    Returns:
        (2 + 2 * R, 2) float32, the two squares first (torchvision's order, so that its weights fit).
    """
    shapes = [(scale, scale), (math.sqrt(scale * next_scale),) * 2]
    for ratio in aspect_ratios:
        long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        shapes += [(long, short), (short, long)]
    return torch.tensor(shapes).clamp(max=1)


def to_fixed_point(numbers: Tensor) -> Tensor:
    """Whole numbers, which neither a cast of the model to half precision nor an exporter rounds.

    Exact for float32 above 2**-16.
    """
    return (numbers.double() * _UNITS).round().long()


def from_fixed_point(numbers: Tensor) -> Tensor:
    """Inverse of :func:`to_fixed_point`, as float32."""
    return numbers.float() / _UNITS
