"""Fusion operators: how two or more maps of one size become one.

Every operator is defined for any number of inputs of at least one. ``add`` and its kin need equal widths; ``concat``
takes any and ends in its own 1x1 convolution; ``fast_normalized`` and ``softmax`` learn one scalar per input.

Sources: add, concat: FPN (Lin et al. 2017, arXiv 1612.03144) and HyperNet (Kong et al. 2016, arXiv 1604.00600);
fast_normalized and softmax: EfficientDet, section 3.3 (Tan et al. 2020, arXiv 1911.09070); gated: AFF (Dai et al. 2021,
arXiv 2009.14082); complex: parallel feature fusion (Yang et al. 2003, Pattern Recognition 36), read out as a modulus.

The neck starts the convolutions as it starts its edges' (:mod:`detfuse.fill`), so that ``concat`` begins with the root
mean square of its inputs, as a projection does with that of its channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detfuse.errors import InputError
from detfuse.fill import fill_uniform
from detfuse.norms import ChannelNorm
from detfuse.ranges import NonNegativeFloat, PositiveInt, checked


def _equal_width(operator: str, in_channels: tuple[int, ...], out_channels: int) -> None:
    """Refuse widths that an element-wise operator cannot fuse."""
    if set(in_channels) != {out_channels}:
        raise InputError(
            f"{operator} needs maps of one width, got {list(in_channels)} for an output of {out_channels}: "
            "let the edges project (project: true) or use the operator concat"
        )


class Add(nn.Module):
    """The sum of the maps."""

    def __init__(self, in_channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        _equal_width("add", in_channels, out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return reduce(torch.add, maps)


class Mean(nn.Module):
    """The mean of the maps: add with a scale that does not grow with the number of inputs."""

    def __init__(self, in_channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        _equal_width("mean", in_channels, out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return reduce(torch.add, maps) / len(maps)


class Max(nn.Module):
    """The element-wise maximum of the maps."""

    def __init__(self, in_channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        _equal_width("max", in_channels, out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return reduce(torch.maximum, maps)


class Concat(nn.Module):
    """Channel concatenation and a 1x1 convolution to ``out_channels``.

    ``add`` is the special case of tied weights: with W = [V V], W [x; y] = V (x + y).
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(sum(in_channels), out_channels, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fused: Tensor = self.mix(torch.cat(list(maps), dim=1))
        return fused


@checked
class Complex(nn.Module):
    """Parallel fusion: two maps become z = x + iy, read out as a real map.

    Stacking real and imaginary part and convolving them *is* concat; what a real network gains is the modulus
    sqrt(x^2 + y^2), for n inputs the L2 norm across inputs.

    Args:
        in_channels: widths of the inputs, all equal to ``out_channels``.
        out_channels: width of the result.
        readout: ``modulus``, or ``complex_conv``: the modulus of a complex 1x1 convolution (A + iB)(x + iy); more than
            two inputs fold from left to right. A and B are blocks of one matrix [A -B; B A] and start by its fan-in of
            2 C, which keeps the mean of the squared moduli; it is square, so that every fill gives the same.
        eps: added under the root, so that the gradient at 0 is finite.
    """

    own_start = True

    def __init__(
        self,
        in_channels: tuple[int, ...],
        out_channels: int,
        *,
        readout: Literal["modulus", "complex_conv"] = "modulus",
        eps: NonNegativeFloat = 1e-6,
    ) -> None:
        super().__init__()
        _equal_width("complex", in_channels, out_channels)
        self.eps = eps
        folds = len(in_channels) - 1 if readout == "complex_conv" else 0
        self.real = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 1, bias=False) for _ in range(folds))
        self.imaginary = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 1, bias=False) for _ in range(folds))
        for block in (*self.real, *self.imaginary):
            assert isinstance(block, nn.Conv2d)
            fill_uniform(block, 2 * out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        if not self.real:
            return self._modulus(*maps)
        fused = maps[0]
        for a, b, y in zip(self.real, self.imaginary, maps[1:], strict=True):
            fused = self._modulus(a(fused) - b(y), b(fused) + a(y))
        return fused

    def _modulus(self, *parts: Tensor) -> Tensor:
        # squares overflow and underflow in half precision
        squares = reduce(torch.add, (part.float().square() for part in parts))
        return (squares + self.eps).sqrt().to(parts[0].dtype)


@checked
class FastNormalized(nn.Module):
    """Sum of w_i x_i / (sum of w + eps), with w = ReLU(learnt scalar), 1 at the start."""

    def __init__(self, in_channels: tuple[int, ...], out_channels: int, *, eps: NonNegativeFloat = 1e-4) -> None:
        super().__init__()
        _equal_width("fast_normalized", in_channels, out_channels)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(len(in_channels)))

    def shares(self) -> Tensor:
        """The normalised weight of each input, (n,)."""
        weight = self.weight.relu()
        return weight / (weight.sum() + self.eps)

    def learnt(self) -> dict[str, float]:
        """The share of each input by its position, see :class:`detfuse.protocols.Learnt`."""
        return _by_position(self.shares())

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return _weighted_sum(maps, self.shares())


class Softmax(nn.Module):
    """Sum of softmax(w)_i x_i with one learnt scalar per input, all equal at the start."""

    def __init__(self, in_channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        _equal_width("softmax", in_channels, out_channels)
        self.weight = nn.Parameter(torch.ones(len(in_channels)))

    def shares(self) -> Tensor:
        """The normalised weight of each input, (n,)."""
        return self.weight.softmax(0)

    def learnt(self) -> dict[str, float]:
        """The share of each input by its position, see :class:`detfuse.protocols.Learnt`."""
        return _by_position(self.shares())

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return _weighted_sum(maps, self.shares())


def _by_position(shares: Tensor) -> dict[str, float]:
    return {str(position): share for position, share in enumerate(shares.tolist())}


def _weighted_sum(maps: Sequence[Tensor], shares: Tensor) -> Tensor:
    weights = shares.to(maps[0].dtype).unbind()
    return reduce(torch.add, (x * w for x, w in zip(maps, weights, strict=True)))


@checked
class Gated(nn.Module):
    """Attentional feature fusion: g x + (1 - g) y with a gate per pixel and channel, g = sigmoid(local + global).

    Both branches see x + y: 1x1 to C/r, norm, ReLU, 1x1 to C, norm; *global* does so after global average pooling.
    Deviation from the paper: its batch norms are layer norms over channels here, because a batch norm over one pooled
    pixel cannot train on a single image. More than two inputs fold from left to right.

    Args:
        in_channels: widths of the inputs, all equal to ``out_channels``.
        out_channels: width C of the result.
        ratio: r, the reduction inside the gate.
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: int, *, ratio: PositiveInt = 4) -> None:
        super().__init__()
        _equal_width("gated", in_channels, out_channels)
        hidden = max(1, out_channels // ratio)
        folds = range(len(in_channels) - 1)
        self.local_gates = nn.ModuleList(_gate_branch(out_channels, hidden) for _ in folds)
        self.global_gates = nn.ModuleList(_gate_branch(out_channels, hidden) for _ in folds)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fused = maps[0]
        for local_gate, global_gate, y in zip(self.local_gates, self.global_gates, maps[1:], strict=True):
            both = fused + y
            gate = (local_gate(both) + global_gate(F.adaptive_avg_pool2d(both, 1))).sigmoid()
            fused = gate * fused + (1 - gate) * y
        return fused


def _gate_branch(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=False),
        ChannelNorm(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, channels, 1, bias=False),
        ChannelNorm(channels),
    )


OPERATORS: dict[str, type[nn.Module]] = {
    "add": Add,
    "mean": Mean,
    "max": Max,
    "concat": Concat,
    "complex": Complex,
    "fast_normalized": FastNormalized,
    "softmax": Softmax,
    "gated": Gated,
}
"""What a node may pin by name (with default options)."""
