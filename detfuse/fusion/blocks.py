"""What a node computes on its fused map, and the norms and activations that a neck uses throughout.

The neck starts the convolutions, those of its edges and operators alike (:mod:`detfuse.fill`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from detfuse.errors import InputError
from detfuse.norms import L2Norm, group_norm
from detfuse.ranges import Fraction, NonNegativeFloat, checked

NormName = Literal["none", "batch", "group"]
ActivationName = Literal["none", "relu", "silu"]
BlockName = Literal["conv3", "double_conv3", "separable"]
"""What a topology may compute on the maps it smooths."""

_ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.Identity, "relu": nn.ReLU, "silu": nn.SiLU}


@checked
@dataclass(frozen=True)
class Style:
    """The norm and the activation of a neck.

    Args:
        norm: after every convolution of an edge or a block.
        norm_eps: epsilon of the norm, more than 0.
        norm_momentum: of the batch norm's running statistics, in 0..1.
        activation: in every block.

    Raises:
        ValueError: for a norm or an activation that does not exist, or a number out of range.
    """

    norm: NormName = "none"
    norm_eps: NonNegativeFloat = 1e-5
    norm_momentum: Fraction = 0.1
    activation: ActivationName = "none"

    @property
    def bias(self) -> bool:
        """Whether a convolution before the norm has a bias: a norm would cancel it."""
        return self.norm == "none"

    def make_norm(self, channels: int) -> nn.Module:
        """The norm over ``channels``, see :func:`detfuse.norms.group_norm` for its groups."""
        if self.norm == "batch":
            return nn.BatchNorm2d(channels, eps=self.norm_eps, momentum=self.norm_momentum)
        if self.norm == "group":
            return group_norm(channels, self.norm_eps)
        return nn.Identity()

    def make_activation(self) -> nn.Module:
        """A fresh activation module."""
        return _ACTIVATIONS[self.activation]()


def conv3(in_channels: int, out_channels: int, style: Style) -> nn.Module:
    """3x3 convolution, norm, activation: FPN's smoothing."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=style.bias),
        style.make_norm(out_channels),
        style.make_activation(),
    )


def double_conv3(in_channels: int, out_channels: int, style: Style) -> nn.Module:
    """Twice 3x3 convolution, norm, activation: U-Net's."""
    return nn.Sequential(conv3(in_channels, out_channels, style), conv3(out_channels, out_channels, style))


def separable(in_channels: int, out_channels: int, style: Style) -> nn.Module:
    """Activation, *then* depthwise 3x3 and pointwise 1x1, then norm, no activation after: BiFPN's."""
    return nn.Sequential(
        style.make_activation(),
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=style.bias),
        style.make_norm(out_channels),
    )


def relu(in_channels: int, out_channels: int, style: Style) -> nn.Module:
    """ReLU alone, as before RetinaNet's P7."""
    _keep_width("relu", in_channels, out_channels)
    return nn.ReLU()


def l2_norm(in_channels: int, out_channels: int, style: Style) -> nn.Module:
    """:class:`~detfuse.norms.L2Norm` that starts at a mean square of 1 at any width (SSD: .78 of 512 channels)."""
    _keep_width("l2_norm", in_channels, out_channels)
    return L2Norm(in_channels, math.sqrt(in_channels))


def _keep_width(block: str, in_channels: int, out_channels: int) -> None:
    if in_channels != out_channels:
        raise InputError(f"the block {block} cannot change the width from {in_channels} to {out_channels}")


@dataclass(frozen=True)
class Block:
    """What can be computed on a fused map.

    Attributes:
        make: (width of the fused map, width of the result, style) -> module.
        changes_width: whether the two may differ; so it is with blocks that have weights.
    """

    make: Callable[[int, int, Style], nn.Module]
    changes_width: bool = True


BLOCKS: dict[str, Block] = {
    "conv3": Block(conv3),
    "double_conv3": Block(double_conv3),
    "separable": Block(separable),
    "relu": Block(relu, changes_width=False),
    "l2_norm": Block(l2_norm, changes_width=False),
}
"""What a node may name as its block."""
