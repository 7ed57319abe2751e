"""Convolutional block attention.

Title: CBAM: Convolutional Block Attention Module (Woo, Park, Lee, Kweon), 2018
URL: https://arxiv.org/abs/1807.06521
Variant: the authors' code (Jongchan/attention-module). Channel gate first: one shared two-layer MLP (C -> C/r -> C,
biases, ReLU) on each global pool, the results summed, sigmoid. Then the spatial gate on the re-weighted map: concat
[max, average] over the channels, 7x7 convolution without bias, batch norm (momentum .01), sigmoid. r = 16.
Deviations: weights start with the framework's defaults; the authors' *classifier* additionally starts the spatial
batch norm at gamma 0, which makes the spatial gate a constant one half and stops the 7x7 kernel's gradient. The
paper's text has no batch norm in the spatial gate, the code has. ``lp`` and ``lse`` pooling are of the code.
``init="identity"`` is an addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detfuse.attention.parts.arguments import hidden_channels
from detfuse.attention.parts.gate import Gate, Init
from detfuse.errors import InputError
from detfuse.ranges import OddInt, PositiveInt, checked

Pool = Literal["average", "max", "lp", "lse"]


def global_pool(x: Tensor, pool: Pool) -> Tensor:
    """(B, C, H, W) to (B, C, 1, 1): average, max, L2 norm (``lp``) or log-sum-exp over all positions."""
    if pool == "average":
        return x.mean((2, 3), keepdim=True)
    if pool == "max":
        return x.amax((2, 3), keepdim=True)
    if pool == "lp":
        norm: Tensor = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        return norm
    lse: Tensor = x.logsumexp((2, 3), keepdim=True)
    return lse


class ChannelGate(nn.Module):
    """CBAM's first half, one gate per channel: (B, C, H, W) to (B, C, H, W). Arguments: see :class:`CBAM`."""

    def __init__(self, channels: int, *, ratio: int, pools: Sequence[Pool], init: Init) -> None:
        super().__init__()
        if not pools:
            raise InputError("CBAM: pools is empty; the channel gate needs at least one global pool")
        hidden = hidden_channels(channels, ratio)
        self.pools = tuple(pools)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = Gate(init=init)

    def forward(self, x: Tensor) -> Tensor:
        # One pass per pool: the last layer's bias counts once for each, as in the authors' code.
        logits = [self.expand(F.relu(self.reduce(global_pool(x, pool)))) for pool in self.pools]
        out: Tensor = self.gate(x, torch.stack(logits).sum(0).sigmoid())
        return out


class SpatialGate(nn.Module):
    """CBAM's second half, one gate per position: (B, C, H, W) to (B, C, H, W). Arguments: see :class:`CBAM`."""

    def __init__(self, *, kernel_size: int, init: Init) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)
        self.gate = Gate(init=init)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        out: Tensor = self.gate(x, self.norm(self.conv(pooled)).sigmoid())
        return out


@checked
class CBAM(nn.Module):
    """A gate per channel, then a gate per position: (B, C, H, W) to (B, C, H, W).

    Args:
        channels: C.
        ratio: r; the hidden width of the channel gate is C/r, rounded down, at least 1.
        pools: global pools of the channel gate, each of ``average``, ``max``, ``lp`` (L2 norm), ``lse`` (log-sum-exp).
        spatial: whether the spatial gate follows.
        kernel_size: odd kernel of the spatial gate.
        init: ``paper``, or ``identity``: a learnable scalar per gate starts at 0, see
            :mod:`detfuse.attention.parts.gate`.

    Raises:
        ValueError: for an empty or unknown pool, an even kernel, a ratio below 1 or an unknown ``init``.
    """

    def __init__(
        self,
        channels: PositiveInt,
        *,
        ratio: PositiveInt = 16,
        pools: Sequence[Pool] = ("average", "max"),
        spatial: bool = True,
        kernel_size: OddInt = 7,
        init: Init = "paper",
    ) -> None:
        super().__init__()
        self.channel = ChannelGate(channels, ratio=ratio, pools=pools, init=init)
        self.spatial: nn.Module = SpatialGate(kernel_size=kernel_size, init=init) if spatial else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.spatial(self.channel(x))
        return out
