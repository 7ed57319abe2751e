"""Squeeze-and-Excitation.

Title: Squeeze-and-Excitation Networks (Hu, Shen, Albanie, Sun, Wu), 2018
URL: https://arxiv.org/abs/1709.01507
Variant: global average, 1x1 to C/r with bias, ReLU, 1x1 to C with bias, sigmoid, times the map; r = 16. He
initialisation with biases 0, as the paper trains. The paper puts it on the residual branch before the addition:
that is the site's choice.
Deviations: none by default. The hidden width is C/r rounded down, at least 1 (timm rounds it to a multiple of 8: C
= 64 gives 8, not 4). ``squeeze`` other than ``average`` (``max`` is in the paper's ablation) and
``init="identity"`` are additions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detfuse.attention.parts.arguments import hidden_channels
from detfuse.attention.parts.gate import Gate, Init
from detfuse.ranges import PositiveInt, checked

Squeeze = Literal["average", "max", "half_sum", "concat"]


@checked
class SE(nn.Module):
    """One gate per channel, computed from the whole map: (B, C, H, W) to (B, C, H, W).

    Args:
        channels: C.
        ratio: r; the hidden width is C/r, rounded down, at least 1.
        squeeze: how a map becomes one number per channel: its ``average``, its ``max``, ``half_sum``, which is
            0.5 (average + max), or ``concat`` of both, which doubles the first layer's input.
        init: ``paper``, or ``identity``: a learnable scalar starts at 0, see :mod:`detfuse.attention.parts.gate`.

    Raises:
        ValueError: for an unknown ``squeeze`` or ``init``, or a ratio below 1.
    """

    def __init__(
        self, channels: PositiveInt, *, ratio: PositiveInt = 16, squeeze: Squeeze = "average", init: Init = "paper"
    ) -> None:
        super().__init__()
        hidden = hidden_channels(channels, ratio)
        self.squeeze = squeeze
        self.reduce = nn.Conv2d(2 * channels if squeeze == "concat" else channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = Gate(init=init)
        for layer in (self.reduce, self.expand):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # Conv2d's bias is typed optional; here it exists

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.reduce(self._squeeze(x)))
        out: Tensor = self.gate(x, self.expand(hidden).sigmoid())
        return out

    def _squeeze(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 1, 1), or (B, 2C, 1, 1) for ``concat``."""
        if self.squeeze == "max":
            return x.amax((2, 3), keepdim=True)
        average = x.mean((2, 3), keepdim=True)
        if self.squeeze == "average":
            return average
        maximum = x.amax((2, 3), keepdim=True)
        return 0.5 * (average + maximum) if self.squeeze == "half_sum" else torch.cat([average, maximum], 1)
