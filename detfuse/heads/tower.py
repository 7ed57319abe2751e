"""What dense heads share: the tower of convolutions, the check of its width, the view of a map by priors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from detfuse.attention.inserts import HEAD_SITES, Attention, chosen_levels, make_insert, only_sites
from detfuse.errors import InputError
from detfuse.norms import group_norm
from detfuse.structures import FeatureSpec

Norm = Literal["none", "group", "batch"]


def shared_width(in_spec: FeatureSpec, head: str) -> int:
    """The width of all levels.

    Args:
        in_spec: the neck's levels.
        head: name of the head, for the message.

    Raises:
        ValueError: if two levels differ in width, since one tower reads them all.
    """
    width = in_spec.channels[0]
    for level, channels in zip(in_spec.levels, in_spec.channels, strict=True):
        if channels != width:
            raise InputError(
                f"{head} shares one tower over all levels, so they must have one width, but level {in_spec.levels[0]} "
                f"(stride {in_spec.strides[0]}) has {width} channels and level {level} (stride {2**level}) has "
                f"{channels}. Put a neck before it that projects to one width, such as neck=fpn, or neck=unfused for "
                f"none but the projection."
            )
    return width


class _Layer(nn.Sequential):
    """Convolution, norm, activation, and attention on the levels that have it."""

    def forward(self, x: Tensor, *, attend: bool = True) -> Tensor:
        for name, module in self.named_children():
            if attend or name != "attention":
                x = module(x)
        return x


class ConvTower(nn.Sequential):
    """3x3 convolutions with norm and ReLU, shared by all levels.

    The weights begin as N(0, .01), the biases as 0 (RetinaNet, 2017).

    Args:
        in_channels: width of the maps.
        channels: width after each convolution.
        num_convs: how many; 0 passes the maps on as they are.
        norm: ``none``; ``group``, see :func:`detfuse.norms.group_norm`; ``batch``, whose statistics mix all levels.
        attention: what stands after each ReLU (site ``head``), shared by the levels as the tower is.
        name: of the tower, to name its places.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_convs: int,
        norm: Norm,
        attention: Attention | None = None,
        name: str = "tower",
    ) -> None:
        super().__init__()
        self.out_channels = channels if num_convs else in_channels
        for i in range(num_convs):
            block = _Layer()
            # a bias before a batch norm would have no effect and no gradient
            block.add_module(
                "conv", nn.Conv2d(channels if i else in_channels, channels, 3, padding=1, bias=norm != "batch")
            )
            if norm == "group":
                block.add_module("norm", group_norm(channels))
            elif norm == "batch":
                block.add_module("norm", nn.BatchNorm2d(channels))
            block.add_module("act", nn.ReLU(inplace=True))
            self.append(block)
        start_small(self)
        if attention:
            for i, layer in enumerate(self):
                layer.add_module("attention", make_insert(attention, "head", f"{name}.{i}", None, channels))

    def forward(self, x: Tensor, *, attend: bool = True) -> Tensor:
        """(B, C, H, W) to the same size.

        Args:
            x: the map of one level.
            attend: whether this level has the attention, if there is any.
        """
        for block in self:
            x = block(x, attend=attend)
        return x


def attended_levels(attention: Attention | None, in_spec: FeatureSpec, num_convs: int, head: str) -> list[bool]:
    """Per level, whether the towers' attention is applied.

    Raises:
        ValueError: if a level was chosen that the head does not have, or the head has no tower to put it in.
    """
    why = "" if num_convs else "num_convs=0 leaves it no tower"
    only_sites(attention, HEAD_SITES if num_convs else (), head, why)
    chosen = chosen_levels(attention, "head", in_spec.levels, head)
    return [level in chosen for level in in_spec.levels]


def start_small(module: nn.Module) -> None:
    """Begin all convolutions of a module with N(0, .01) weights and zero bias (RetinaNet, 2017)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def predictor(in_channels: int, out_channels: int, probability: float = 0.5) -> nn.Conv2d:
    """The last 3x3 convolution of a branch, which begins with logits of this probability everywhere (RetinaNet, 2017).

    A low one for the classes keeps the background from swamping the first steps; .5 is a bias of 0.
    """
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    start_small(layer)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, math.log(probability / (1 - probability)))
    return layer


def by_cell(raw: Tensor, depth: int) -> Tensor:
    """A raw map (B, n * depth, H, W) as (B, H * W, n, depth), always a view."""
    return torch.unflatten(raw.permute(0, 2, 3, 1).flatten(1, 2), 2, (-1, depth))


def by_prior(raw: Tensor, depth: int) -> Tensor:
    """A raw map (B, n * depth, H, W) as (B, H * W * n, depth): row by row, the n priors of a cell together."""
    return by_cell(raw, depth).flatten(1, 2)


def check_features(features: Sequence[Tensor], in_spec: FeatureSpec, head: str) -> None:
    """Raise ValueError unless there is one map per level."""
    if len(features) != len(in_spec):
        raise InputError(f"{head} was built for {len(in_spec)} levels (strides {in_spec.strides}), got {len(features)}")


def tower_width(head: str, num_convs: int, channels: int | None, in_channels: int) -> int:
    """The width of a head's towers: ``channels``, or the neck's.

    Raises:
        InputError: if ``channels`` has no convolution that could bring it about.
    """
    if num_convs == 0 and channels not in (None, in_channels):
        raise InputError(
            f"{head}: tower_channels={channels} has no effect without a tower; set num_convs to at least 1, or "
            f"tower_channels to null (the neck's {in_channels})"
        )
    return in_channels if channels is None else channels
