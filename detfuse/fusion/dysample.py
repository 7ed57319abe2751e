"""DySample: up-sampling by learning where to sample.

Paper: Learning to Upsample by Learning to Sample, ICCV 2023, https://arxiv.org/abs/2308.15085
Code: https://github.com/tiny-smart/dysample (MIT)
Variants: both styles, "LP" (offsets by a 1x1 convolution, then pixel shuffle) and "PL" (pixel shuffle, then the 1x1
convolution), each with the static scope factor and with the dynamic one, which the paper calls DySample+.
Start: the authors', offsets near 0 (a deviation of 0.001), hence nearly bilinear; the neck's fill does not apply.
Deviations: none for a target of exactly ``2**steps`` times the map's size. For any other size the sampling grid is that
of bilinear interpolation to this size, and the offsets, which are made on the exact multiple, are taken from there by
the nearest neighbour. Positions are computed in float32 also in mixed precision: half precision cannot tell pixels
apart. The dynamic scope's convolution has no bias, as in one of the two versions of the authors' code.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detfuse.errors import InputError
from detfuse.fusion.grid import Up, fit, same_width
from detfuse.ranges import PositiveInt, checked
from detfuse.structures import Size

_OFFSET_STD = 0.001  # of the weights at the start
_STATIC_SCOPE = 0.25  # beyond a quarter of a source pixel, the samples of neighbours would overlap


@checked
class DySample(Up):
    """See the module's header.

    Args:
        in_channels: width of the map, which stays.
        out_channels: the same.
        steps: levels to cross; all at once, by ``2**steps``.
        style: ``lp`` or ``pl``.
        groups: groups of channels with offsets of their own; where they do not divide the width, as many as do.
        dynamic_scope: whether the range of the offsets is computed from the map too, 0 to 0.5 of a pixel, instead of
            being 0.25.

    Raises:
        InputError: if the width changes, or is no multiple of ``4**steps`` (``pl``).
    """

    own_start = True
    averages = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        steps: int,
        *,
        style: Literal["lp", "pl"] = "lp",
        groups: PositiveInt = 4,
        dynamic_scope: bool = False,
    ) -> None:
        super().__init__()
        same_width("dysample", in_channels, out_channels)
        self.scale = 2**steps
        self.style = style
        self.groups = math.gcd(groups, in_channels)
        pixels = self.scale**2
        if style == "pl" and in_channels % pixels:
            raise InputError(
                f"dysample: style=pl spreads the channels over {pixels} pixels where {steps} levels are crossed, and "
                f"{in_channels} channels are no multiple of that: take style=lp, or another width"
            )
        read = in_channels // pixels if style == "pl" else in_channels
        made = 2 * self.groups * (1 if style == "pl" else pixels)
        self.offset = nn.Conv2d(read, made, 1)
        nn.init.normal_(self.offset.weight, std=_OFFSET_STD)
        self.scope = nn.Conv2d(read, made, 1, bias=False) if dynamic_scope else None
        for zero in (self.offset.bias, None if self.scope is None else self.scope.weight):
            if zero is not None:
                nn.init.zeros_(zero)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        batch, channels, height, width = x.shape
        # positions need float32 at least; sampling wants the map in their precision
        precise = torch.promote_types(x.dtype, torch.float32)
        offsets = fit(self._offsets(x).to(precise), size)
        right, down = offsets.reshape(batch, 2, self.groups, *size).unbind(1)
        grid = _centres(size, offsets) + torch.stack([right * (2 / width), down * (2 / height)], dim=-1)
        sampled = F.grid_sample(
            x.to(precise).reshape(batch * self.groups, channels // self.groups, height, width),
            grid.flatten(0, 1),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        return sampled.reshape(batch, channels, *size).to(x.dtype)

    def _offsets(self, x: Tensor) -> Tensor:
        """(B, 2 x groups, scale x H, scale x W): how far from its centre each pixel samples, in pixels of the map."""
        x = F.pixel_shuffle(x, self.scale) if self.style == "pl" else x
        scope = _STATIC_SCOPE if self.scope is None else 2 * _STATIC_SCOPE * self.scope(x).sigmoid()
        offsets: Tensor = self.offset(x) * scope
        return offsets if self.style == "pl" else F.pixel_shuffle(offsets, self.scale)


def _centres(size: Size, like: Tensor) -> Tensor:
    """The centres of a grid's pixels, as (x, y) in -1..1: (H, W, 2)."""
    rows, columns = ((2 * torch.arange(side, dtype=like.dtype, device=like.device) + 1) / side - 1 for side in size)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
