"""What dense heads with towers share: the convolutions, the check of their width, the focal loss of their classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from detfuse.attention.inserts import HEAD_SITES, Sites, chosen_levels, make_insert, only_sites
from detfuse.errors import InputError
from detfuse.heads.classes import ClassRows
from detfuse.heads.dense import Assigned, DenseHead, Maps, by_cell
from detfuse.losses import focal_loss
from detfuse.norms import group_norm
from detfuse.ranges import OddInt
from detfuse.structures import FeatureSpec

Norm = Literal["none", "group", "batch"]


class TowerHead(DenseHead[Maps]):
    """A dense head with a tower for the classes and one for the boxes, shared by all levels (RetinaNet, 2017).

    Each prior has one sigmoid per class, which learn by the focal loss.

    Attributes:
        attended: per level, whether the towers' attention is applied.
        focal_alpha: set by the head, see :func:`~detfuse.losses.focal_loss`.
        focal_gamma: likewise.
    """

    focal_alpha: float
    focal_gamma: float
    cls_tower: nn.Module
    box_tower: nn.Module
    cls_logits: nn.Module

    def build_towers(
        self,
        attention: Sites | None,
        num_convs: int,
        tower_channels: int | None,
        norm: Norm,
        probability: float,
        bias: bool | None = None,
    ) -> int:
        """Make the towers and ``cls_logits``, which needs to know ``priors_per_cell``.

        Args:
            attention: what stands at the site ``head``.
            num_convs: of each tower.
            tower_channels: their width; None is the neck's.
            norm: after each convolution.
            probability: of each class at the start.
            bias: of each convolution; None: unless a batch norm follows.

        Returns:
            The width of what the layers after the box tower read.

        Raises:
            InputError: if levels differ in width, or attention or width have no tower to be in.
        """
        name = type(self).__name__
        width = shared_width(self.in_spec, name)
        channels = _tower_width(name, num_convs, tower_channels, width)
        self.attended = attended_levels(attention, self.in_spec, num_convs, name)
        self.cls_tower = ConvTower(width, channels, num_convs, norm, attention, "cls_tower", bias)
        self.box_tower = ConvTower(width, channels, num_convs, norm, attention, "box_tower", bias)
        self.cls_logits = predictor(channels, self.priors_per_cell[0] * self.num_classes, probability)
        return channels

    def towers(self, features: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """The class logits of each level, and what comes out of the box tower.

        Raises:
            InputError: unless there is one map per level.
        """
        self.check(features)
        levels = list(zip(features, self.attended, strict=True))
        logits = tuple(self.cls_logits(self.cls_tower(x, attend=on)) for x, on in levels)
        return logits, [self.box_tower(x, attend=on) for x, on in levels]

    def class_rows(self) -> dict[str, ClassRows]:
        """See :class:`detfuse.heads.classes.Classed`."""
        return {"cls_logits.": ClassRows(groups=self.priors_per_cell[0])}

    def class_loss(self, outputs: Maps, assigned: Assigned, share: Tensor) -> Tensor:
        """The focal loss of all classes; ``share`` is the weight of a prior that learns, by (B, A) or broadcast."""
        weight = torch.where(assigned.positive | assigned.negative, share, 0.0)
        logits = [by_cell(raw, self.num_classes).float() for raw in outputs.logits]
        return focal_loss(
            logits, assigned.labels, assigned.positive, weight, alpha=self.focal_alpha, gamma=self.focal_gamma
        )


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
        bias: whether the convolutions have biases; None: unless a batch norm follows, before which one would have no
            effect and no gradient.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_convs: int,
        norm: Norm,
        attention: Sites | None = None,
        name: str = "tower",
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = channels if num_convs else in_channels
        bias = norm != "batch" if bias is None else bias
        for i in range(num_convs):
            block = _Layer()
            block.add_module("conv", nn.Conv2d(channels if i else in_channels, channels, 3, padding=1, bias=bias))
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


def start_small(module: nn.Module) -> None:
    """Begin all convolutions of a module with N(0, .01) weights and zero bias (RetinaNet, 2017)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def predictor(in_channels: int, out_channels: int, probability: float = 0.5, kernel_size: OddInt = 3) -> nn.Conv2d:
    """The last convolution of a branch, which begins with logits of this probability everywhere (RetinaNet, 2017).

    A low one for the classes keeps the background from swamping the first steps; .5 is a bias of 0.
    """
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    start_small(layer)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, math.log(probability / (1 - probability)))
    return layer


def shared_width(in_spec: FeatureSpec, head: str) -> int:
    """The width of all levels, which must be one: one tower reads them all."""
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


def _tower_width(head: str, num_convs: int, channels: int | None, in_channels: int) -> int:
    """``channels``, or the neck's; refused if no convolution could bring it about."""
    if num_convs == 0 and channels not in (None, in_channels):
        raise InputError(
            f"{head}: tower_channels={channels} has no effect without a tower; set num_convs to at least 1, or "
            f"tower_channels to null (the neck's {in_channels})"
        )
    return in_channels if channels is None else channels


def attended_levels(attention: Sites | None, in_spec: FeatureSpec, num_convs: int, head: str) -> list[bool]:
    """Per level, whether the towers' attention is applied; refused if there is no such level or no tower."""
    why = "" if num_convs else "num_convs=0 leaves it no tower"
    only_sites(attention, HEAD_SITES if num_convs else (), head, why)
    chosen = chosen_levels(attention, "head", in_spec.levels, head)
    return [level in chosen for level in in_spec.levels]
