"""Norms that torch has not: the one rule of how group norm divides channels, and two that see a pixel's channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_GROUPS = 32  # of the paper
_LEAST_CHANNELS = 8  # of a group


def group_norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    """Group norm (Wu, He 2018, https://arxiv.org/abs/1803.08494) that a map of 1 x 1 survives.

    The paper's 32 groups, fewer where they would have less than 8 channels: on the 1x1 maps of small images a group of
    one channel is always 0 and one of two always -1 and 1, whatever the image shows. Narrow maps are a single group.

    Args:
        channels: width of the map.
        eps: added to the variance.
    """
    return nn.GroupNorm(math.gcd(_GROUPS, max(1, channels // _LEAST_CHANNELS), channels), channels, eps=eps)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel: (B, C, H, W) to the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class L2Norm(nn.Module):
    """Scales the vector of channels at every place to a learnt length per channel (ParseNet, 2015).

    Args:
        channels: width of the map.
        scale: value of all the lengths at the start.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        # in float32, since the squares of half precision overflow
        return functional.normalize(x.float()).to(x.dtype) * self.scale[:, None, None]
