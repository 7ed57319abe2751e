"""Global context.

Title: GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond (Cao, Xu, Lin, Wei, Hu), 2019
URL: https://arxiv.org/abs/1904.11492
Variant: softmax over all positions of a one-channel 1x1, the weighted sum of the map is its context; 1x1 to C/r,
LayerNorm, ReLU, 1x1 to C (initialised to zero, weight and bias), *added* to every position; r = 16. ``fusion`` and
``pooling`` are the paper's ablation.
Deviations: the one-channel 1x1 has no bias, because the softmax cancels it (same function, one parameter less that
could never learn). The hidden width is C/r rounded down but at least 2: LayerNorm turns a single number into a
constant. timm's ``gc`` multiplies, its ``gca`` adds and is this one with eps 1e-6. ``init="identity"`` is an
addition and changes only the multiplying forms.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from detfuse.attention.parts.arguments import hidden_channels
from detfuse.attention.parts.gate import Gate, Init
from detfuse.attention.parts.pairwise import full_precision
from detfuse.ranges import PositiveInt, checked

Pooling = Literal["attention", "average"]
Fusion = Literal["add", "mul", "mul_add"]


class Transform(nn.Sequential):
    """The bottleneck C -> hidden -> C on a context (B, C, 1, 1): 1x1, LayerNorm, ReLU, 1x1 that starts at zero."""

    def __init__(self, channels: int, hidden: int) -> None:
        last = nn.Conv2d(hidden, channels, 1)
        super().__init__(nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(inplace=True), last)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)


@checked
class GC(nn.Module):
    """One context vector for the whole map, transformed and added to every position: (B, C, H, W) to (B, C, H, W).

    Args:
        channels: C.
        ratio: r; the hidden width is C/r, rounded down, at least 2.
        pooling: the context is a learned ``attention`` over positions, or the plain ``average``.
        fusion: ``add`` (the paper's block), ``mul`` by a sigmoid gate, or ``mul_add``: the gate, then the addition.
        init: ``paper``, or ``identity`` (:mod:`detfuse.attention.parts.gate`). With ``add`` both start as the identity.

    Raises:
        ValueError: for an unknown choice or a ratio below 1.
    """

    def __init__(
        self,
        channels: PositiveInt,
        *,
        ratio: PositiveInt = 16,
        pooling: Pooling = "attention",
        fusion: Fusion = "add",
        init: Init = "paper",
    ) -> None:
        super().__init__()
        hidden = hidden_channels(channels, ratio, minimum=2)
        self.mask = nn.Conv2d(channels, 1, 1, bias=False) if pooling == "attention" else None
        self.mul = Transform(channels, hidden) if "mul" in fusion else None
        self.add = Transform(channels, hidden) if "add" in fusion else None
        self.gate = Gate(init=init) if "mul" in fusion else None
        if self.mask is not None:
            nn.init.kaiming_normal_(self.mask.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        context = self.context(x)
        if self.mul is not None and self.gate is not None:
            x = self.gate(x, self.mul(context).sigmoid())
        return x if self.add is None else x + self.add(context).to(x.dtype)

    def context(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 1, 1): the sum of all positions by weights that sum to 1."""
        if self.mask is None:
            return x.mean((2, 3), keepdim=True)
        weights = full_precision(self.mask(x)).flatten(2).softmax(-1)
        return (x.flatten(2) @ weights.to(x.dtype).transpose(1, 2)).unsqueeze(-1)
