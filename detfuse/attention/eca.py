"""Efficient channel attention.

Title: ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks (Wang, Wu, Zhu, Li, Zuo, Hu),
2020
URL: https://arxiv.org/abs/1910.03151
Variant: global average, one 1-D convolution across neighbouring channels without bias, zero padding, sigmoid, times
the map. The kernel is |log2(C)/gamma + b/gamma| made odd, gamma = 2, b = 1: 64 -> 3, 256 -> 5, 512 -> 5, 2048 -> 7.
Deviations: none by default. An even kernel becomes the next larger odd one, as in the official code (the paper says
the nearest, which is a tie); timm never goes below 3, which differs for C < 8. ``kernel_size`` and
``init="identity"`` are additions.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from detfuse.attention.parts.gate import Gate, Init
from detfuse.ranges import FiniteFloat, OddInt, PositiveFloat, PositiveInt, checked


@checked
def eca_kernel_size(channels: PositiveInt, *, gamma: PositiveFloat = 2.0, b: FiniteFloat = 1.0) -> int:
    """Kernel of the 1-D convolution: |log2(channels)/gamma + b/gamma| rounded down, then up to an odd number.

    Raises:
        ValueError: if ``channels`` is less than 1 or ``gamma`` is not positive.
    """
    size = int(abs((math.log2(channels) + b) / gamma))
    return size if size % 2 else size + 1


@checked
class ECA(nn.Module):
    """One gate per channel, computed from its neighbours in channel order: (B, C, H, W) to (B, C, H, W).

    Args:
        channels: C.
        kernel_size: odd number of neighbouring channels that a gate looks at; None takes the paper's formula.
        gamma: of the formula.
        b: of the formula.
        init: ``paper``, or ``identity``: a learnable scalar starts at 0, see :mod:`detfuse.attention.parts.gate`.

    Raises:
        ValueError: for an even or non-positive ``kernel_size``, or an unknown ``init``.
    """

    def __init__(
        self,
        channels: PositiveInt,
        *,
        kernel_size: OddInt | None = None,
        gamma: PositiveFloat = 2.0,
        b: FiniteFloat = 1.0,
        init: Init = "paper",
    ) -> None:
        super().__init__()
        size = eca_kernel_size(channels, gamma=gamma, b=b) if kernel_size is None else kernel_size
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        self.gate = Gate(init=init)

    def forward(self, x: Tensor) -> Tensor:
        across_channels = self.conv(x.mean((2, 3)).unsqueeze(1))
        out: Tensor = self.gate(x, across_channels.sigmoid().transpose(1, 2).unsqueeze(-1))
        return out
