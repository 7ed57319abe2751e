"""RoIAlign over the maps of a neck: each region of interest from the level that fits its size.

Papers: Mask R-CNN, 2017, https://arxiv.org/abs/1703.06870 (RoIAlign); Feature Pyramid Networks, 2017,
https://arxiv.org/abs/1612.03144 (eq. 1: which level).
Variant: torchvision's ``MultiScaleRoIAlign``, with ``aligned=False``; but for any levels, from nominal strides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torchvision.ops import roi_align

CANONICAL_SIZE = 224.0
"""Pixels: a region of this size (square root of the area), an image of ImageNet, is pooled from level 4."""
_CANONICAL_LEVEL = 4
_EPS = 1e-6  # torchvision's, so that sizes at the border between two levels fall to the coarser in spite of rounding


def level_places(boxes: Tensor, levels: Sequence[int]) -> Tensor:
    """Which of the maps each box is pooled from, as a place 0.. in ``levels``.

    Args:
        boxes: (B, R, 4) xyxy pixels.
        levels: log2 of the stride of each map, ascending; a level that is missing is taken by the next finer one.

    Returns:
        (B, R) int64.
    """
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    wanted = torch.floor(_CANONICAL_LEVEL + torch.log2((width * height).sqrt() / CANONICAL_SIZE) + _EPS)
    finer = [(wanted >= level).long() for level in levels[1:]]
    return torch.stack([torch.zeros_like(wanted, dtype=torch.int64), *finer]).sum(0)


def pool_rois(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, *, size: int, sampling_ratio: int
) -> Tensor:
    """Pool every box from the one map that fits it, in float32.

    Eager, each map is asked for its own boxes. Where shapes must not depend on the data (compilers, exporters, and when
    only shapes are followed) each is asked for all of them, and the fitting answer is chosen: the same numbers, for as
    many times the work as there are maps.

    Args:
        maps: (B, C, H, W) each, finest first, all of one width.
        strides: of the maps, powers of two.
        boxes: (B, R, 4) xyxy pixels of the image.
        size: of what is pooled, in cells.
        sampling_ratio: points per side of a cell; 0: as many as the map has cells there.

    Returns:
        (B * R, C, size, size), of the maps' type.
    """
    regions = regions_of(boxes)

    def pooled(level: int, rows: Tensor) -> Tensor:
        found: Tensor = roi_align(maps[level].float(), rows, size, 1.0 / strides[level], sampling_ratio)
        return found

    if len(maps) == 1:
        return pooled(0, regions).to(maps[0].dtype)
    place = level_places(boxes.float(), [stride.bit_length() - 1 for stride in strides]).flatten()
    if torch.compiler.is_compiling() or isinstance(boxes, FakeTensor):
        found = pooled(0, regions)
        for level in range(1, len(maps)):
            found = torch.where((place == level)[:, None, None, None], pooled(level, regions), found)
        return found.to(maps[0].dtype)
    rows = [(place == level).nonzero().flatten() for level in range(len(maps))]
    by_level = torch.cat([pooled(level, regions[of_level]) for level, of_level in enumerate(rows)])
    return by_level.index_select(0, torch.cat(rows).argsort()).to(maps[0].dtype)


def regions_of(boxes: Tensor) -> Tensor:
    """Boxes (B, R, 4) as torchvision's poolings take them, (B * R, 5) float32: which image, and the box."""
    images = torch.arange(boxes.shape[0], device=boxes.device, dtype=torch.float32)
    return torch.cat([images[:, None, None].expand(-1, boxes.shape[1], 1), boxes.float()], dim=-1).flatten(0, 1)
