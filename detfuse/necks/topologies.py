"""The well-known topologies, each a function from the backbone's levels to a :class:`FusionGraph`.

``c_i`` are the backbone's maps, ``p_i`` the outputs, indexed by log2 of the stride. No shipped topology pins an
operator: which one fuses is the free choice of ``operator=``.

Published starts of the convolutions (:mod:`detfuse.fill`; it is the neck's setting ``fill``, of which each YAML has the
published value): FPN, PAFPN and the levels above them are filled by the fan-in alone (Caffe2's XavierFill in Detectron,
also for RetinaNet's P6 and P7; kept by torchvision; mmdetection counts the fan-out as well), and so are SSD and FSSD
(Caffe's xavier); BiFPN by the mean of fan-in and fan-out (TensorFlow's default). U-Net has a start of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from detfuse.errors import InputError
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.ranges import NonNegativeInt, PositiveInt, checked

Extra = Literal["max_pool", "from_c", "from_p"]
"""Where levels above the backbone's come from: sub-sampled from the last output (Faster R-CNN), or by 3x3/2
convolutions from the last backbone map (RetinaNet's paper) or the last output (FCOS)."""

Block = Literal["conv3", "double_conv3", "separable"]
"""What a topology computes on the maps it smooths, see :mod:`detfuse.fusion.blocks`."""


def _extend(nodes: list[Node], outputs: list[str], top: int, extra_levels: int, extra: Extra) -> None:
    """Append ``extra_levels`` outputs above level ``top``, each from the one below (the first as ``extra`` says)."""
    for level in range(top + 1, top + 1 + extra_levels):
        name = f"p{level}"
        if extra == "max_pool":
            nodes.append(Node(name, level, (outputs[-1],), down="subsample"))
        elif extra == "from_c" and level == top + 1:
            nodes.append(Node(name, level, (f"c{top}",), down="strided_conv", project=False))
        elif extra == "from_p" and level == top + 1:
            nodes.append(Node(name, level, (outputs[-1],), down="strided_conv"))
        elif extra in ("from_c", "from_p"):
            nodes.append(Node(f"r{level - 1}", level - 1, (outputs[-1],), block="relu"))
            nodes.append(Node(name, level, (f"r{level - 1}",), down="strided_conv"))
        else:
            raise InputError(f"extra must be max_pool, from_c or from_p, got {extra!r}")
        outputs.append(name)


@checked
def unfused(
    levels: Sequence[int],
    *,
    project: bool = True,
    block: Block = "conv3",
    depth: PositiveInt = 1,
    extra_levels: NonNegativeInt = 2,
    extra: Extra = "from_p",
) -> FusionGraph:
    """Every level predicts alone: FPN without its top-down path, so that it differs in nothing but fusion.

    Source: SSD (Liu et al. 2016, arXiv 1512.02325), which has neither the projection nor the smoothing
    (``project=False``: maps go to the head as the backbone made them).

    Args:
        levels: the backbone's.
        project: whether each map passes a 1x1 convolution and ``depth`` blocks.
        block: what is computed on each level.
        depth: blocks on each level, one after the other; more of them give it the cost of a neck that fuses.
        extra_levels: levels above the backbone's top.
        extra: where they come from.
    """
    if depth > 1 and not project:
        raise InputError(f"unfused has depth blocks per level, but only one without projection; got depth {depth}")
    outputs = [f"p{level}" for level in levels]
    nodes = []
    for level in levels:
        below = f"c{level}"
        for i in range(1, depth):
            nodes.append(Node(f"b{i}_{level}", level, (below,), block=block))
            below = f"b{i}_{level}"
        nodes.append(Node(f"p{level}", level, (below,), block=block if project else None, project=project))
    _extend(nodes, outputs, levels[-1], extra_levels, extra)
    return FusionGraph(tuple(levels), tuple(nodes), tuple(outputs))


@checked
def early(levels: Sequence[int], *, level: PositiveInt | None = None, block: Block = "conv3") -> FusionGraph:
    """All backbone maps are fused once, and one predictor works on the single result.

    Args:
        levels: the backbone's.
        level: where they meet; None is the finest.
        block: what is computed on the fused map.
    """
    at = levels[0] if level is None else level
    nodes = (Node(f"f{at}", at, tuple(f"c{i}" for i in levels)), Node(f"p{at}", at, (f"f{at}",), block=block))
    return FusionGraph(tuple(levels), nodes, (f"p{at}",))


@checked
def early_pyramid(
    levels: Sequence[int], *, level: PositiveInt | None = None, block: Block = "conv3", extra_levels: NonNegativeInt = 2
) -> FusionGraph:
    """Early fusion, then a pyramid is regenerated from the fused map: the same levels as FPN, one fusion.

    Each level is the one below, down-sampled and passed through a block. Source: FSSD (Li, Zhou 2017, arXiv
    1712.00960), which down-samples by strided convolutions.

    Args:
        levels: the backbone's.
        level: where they meet, the finest output; None is the finest backbone level.
        block: what is computed on each level.
        extra_levels: levels above the backbone's top.
    """
    at = levels[0] if level is None else level
    nodes = [Node(f"f{at}", at, tuple(f"c{i}" for i in levels)), Node(f"p{at}", at, (f"f{at}",), block=block)]
    for i in range(at + 1, levels[-1] + extra_levels + 1):
        nodes.append(Node(f"p{i}", i, (f"p{i - 1}",), block=block))
    return FusionGraph(tuple(levels), tuple(nodes), tuple(node.name for node in nodes[1:]))


def _top_down(levels: Sequence[int], smoothed: str, block: Block) -> list[Node]:
    """FPN's inner sums ``t_i`` and their smoothed maps, named ``smoothed`` + level."""
    top = levels[-1]
    nodes = [Node(f"t{top}", top, (f"c{top}",))]
    nodes += [Node(f"t{i}", i, (f"c{i}", f"t{j}")) for i, j in _pairs_down(levels)]
    return nodes + [Node(f"{smoothed}{i}", i, (f"t{i}",), block=block) for i in levels]


def _pairs_down(levels: Sequence[int]) -> list[tuple[int, int]]:
    """(level, next coarser level), coarsest first."""
    return list(pairwise(levels))[::-1]


@checked
def fpn(
    levels: Sequence[int], *, block: Block = "conv3", extra_levels: NonNegativeInt = 2, extra: Extra = "from_p"
) -> FusionGraph:
    """Feature pyramid network (Lin et al. 2017, arXiv 1612.03144): 1x1 laterals, top-down sums, 3x3 on every sum."""
    nodes = _top_down(levels, "p", block)
    outputs = [f"p{i}" for i in levels]
    _extend(nodes, outputs, levels[-1], extra_levels, extra)
    return FusionGraph(tuple(levels), tuple(nodes), tuple(outputs))


@checked
def unet(
    levels: Sequence[int], *, block: Block = "double_conv3", extra_levels: NonNegativeInt = 2, extra: Extra = "from_p"
) -> FusionGraph:
    """U-Net's decoder (Ronneberger et al. 2015, arXiv 1505.04597): the *processed* map goes on downwards.

    Each fused map passes two 3x3 convolutions before it is both output and input of the next finer level; FPN hands
    the plain sum on. The paper's operator is concat, its resampler a transposed convolution. Deviation: the paper's
    weights start as Gaussians of variance 2 / fan-in; here the neck's fill starts them, as in FPN.
    """
    top = levels[-1]
    nodes = [Node(f"p{top}", top, (f"c{top}",), block=block)]
    nodes += [Node(f"p{i}", i, (f"c{i}", f"p{j}"), block=block) for i, j in _pairs_down(levels)]
    outputs = [f"p{i}" for i in levels]
    _extend(nodes, outputs, top, extra_levels, extra)
    return FusionGraph(tuple(levels), tuple(nodes), tuple(outputs))


@checked
def pafpn(
    levels: Sequence[int],
    *,
    variant: Literal["paper", "mmdetection"] = "mmdetection",
    block: Block = "conv3",
    extra_levels: NonNegativeInt = 2,
    extra: Extra = "from_p",
) -> FusionGraph:
    """Path aggregation (Liu et al. 2018, arXiv 1803.01534): FPN, then a bottom-up path n_i.

    Args:
        levels: the backbone's.
        variant: what goes up to the next level: the smoothed map (``paper``, which also has a ReLU: set the neck's
            ``activation: relu``) or the plain sum, smoothed for the output only (``mmdetection``).
        block: what smooths the sums of both paths.
        extra_levels: levels above the backbone's top.
        extra: where they come from.
    """
    if variant not in ("paper", "mmdetection"):
        raise InputError(f"variant must be paper or mmdetection, got {variant!r}")
    finest = levels[0]
    nodes = _top_down(levels, "f", block)
    # the finest level has no second sum: its output is the first path's
    nodes = [Node(f"p{finest}", finest, n.inputs, n.block) if n.name == f"f{finest}" else n for n in nodes]
    below = f"p{finest}"
    for i in levels[1:]:
        nodes += [Node(f"n{i}", i, (f"f{i}", below)), Node(f"p{i}", i, (f"n{i}",), block=block)]
        below = f"p{i}" if variant == "paper" else f"n{i}"
    outputs = [f"p{i}" for i in levels]
    _extend(nodes, outputs, levels[-1], extra_levels, extra)
    return FusionGraph(tuple(levels), tuple(nodes), tuple(outputs))


@checked
def bifpn(
    levels: Sequence[int], *, block: Block = "separable", extra_levels: NonNegativeInt = 2, repeats: PositiveInt = 3
) -> FusionGraph:
    """Bidirectional FPN (Tan et al. 2020, arXiv 1911.09070), section 3.

    No single-input nodes; middle levels get an extra edge from their original input. P6 is a 1x1 of C5, then pooled, P7
    pooled from P6. In the first repeat a level used twice has two separate projections, because projection belongs to
    the edge. The paper's operator is fast_normalized, its resamplers nearest and max_pool, its block separable, its
    fill fan_avg.

    Args:
        levels: the backbone's.
        block: what is computed on every fused map.
        extra_levels: levels above the backbone's top.
        repeats: how often the bidirectional layer is applied.
    """
    if len(levels) + extra_levels < 2:
        raise InputError(f"bifpn needs two levels, got {len(levels) + extra_levels}")
    top = levels[-1]
    every = [*levels, *range(top + 1, top + extra_levels + 1)]
    inputs = {i: f"c{i}" for i in levels}
    nodes = []
    for i in every[len(levels) :]:
        nodes.append(Node(f"x{i}", i, (inputs[i - 1],)))
        inputs[i] = f"x{i}"
    for repeat in range(1, repeats + 1):
        layer, inputs = _bidirectional(every, inputs, repeat, block, last=repeat == repeats)
        nodes += layer
    return FusionGraph(tuple(levels), tuple(nodes), tuple(f"p{i}" for i in every))


def _bidirectional(
    levels: Sequence[int], inputs: dict[int, str], repeat: int, block: Block, *, last: bool
) -> tuple[list[Node], dict[int, str]]:
    """One BiFPN layer: its nodes and its outputs by level."""
    made = {i: f"p{i}" if last else f"b{repeat}_{i}" for i in levels}
    finest, top = levels[0], levels[-1]
    down = {top: inputs[top]}
    nodes = []
    for i, j in _pairs_down(levels):
        down[i] = made[i] if i == finest else f"d{repeat}_{i}"
        nodes.append(Node(down[i], i, (inputs[i], down[j]), block=block))
    for below, i in pairwise(levels):
        own = (inputs[i],) if i == top else (inputs[i], down[i])
        nodes.append(Node(made[i], i, (*own, made[below]), block=block))
    return nodes, made
