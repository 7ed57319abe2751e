"""Bidirectional FPN.

Paper: EfficientDet: Scalable and Efficient Object Detection, 2020, https://arxiv.org/abs/1911.09070, section 3
Variant: no single-input nodes; middle levels get an extra edge from their original input. P6 is a 1x1 of C5, then
pooled, P7 pooled from P6. In the first repeat a level used twice has two separate projections, because projection
belongs to the edge. The paper's operator is fast_normalized, its resamplers nearest and max_pool, its block separable,
its fill fan_avg.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from detfuse.errors import InputError
from detfuse.fusion.blocks import BlockName
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.necks.topologies.fpn import downwards
from detfuse.ranges import Levels, Repeats, checked


@checked
def bifpn(
    levels: Sequence[int],
    *,
    block: BlockName = "separable",
    extra_levels: Levels = 2,
    repeats: Repeats = 3,
) -> FusionGraph:
    """See the module's header.

    >>> print(bifpn((3, 4, 5), extra_levels=0, repeats=1))
    d1_4 = separable(fuse(c4, c5))
    p3 = separable(fuse(c3, d1_4))
    p4 = separable(fuse(c4, d1_4, p3))
    p5 = separable(fuse(c5, p4))
    outputs: p3, p4, p5 (pyramid fusion)

    Args:
        levels: the backbone's.
        block: what is computed on every fused map.
        extra_levels: levels above the backbone's top; they are fused like the others.
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
    levels: Sequence[int], inputs: dict[int, str], repeat: int, block: BlockName, *, last: bool
) -> tuple[list[Node], dict[int, str]]:
    """One BiFPN layer: its nodes and its outputs by level."""
    made = {i: f"p{i}" if last else f"b{repeat}_{i}" for i in levels}
    finest, top = levels[0], levels[-1]
    down = {top: inputs[top]}
    nodes = []
    for i, j in downwards(levels):
        down[i] = made[i] if i == finest else f"d{repeat}_{i}"
        nodes.append(Node(down[i], i, (inputs[i], down[j]), block=block))
    for below, i in pairwise(levels):
        own = (inputs[i],) if i == top else (inputs[i], down[i])
        nodes.append(Node(made[i], i, (*own, made[below]), block=block))
    return nodes, made
