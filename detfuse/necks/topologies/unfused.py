"""Late fusion: every level predicts alone.

Paper: SSD: Single Shot MultiBox Detector, 2016, https://arxiv.org/abs/1512.02325
Variant: with FPN's projection and smoothing, which SSD has not, so that it differs from FPN in nothing but fusion;
``project=False`` is SSD's form, where maps go to the head as the backbone made them.
"""

from __future__ import annotations

from collections.abc import Sequence

from detfuse.errors import InputError
from detfuse.fusion.blocks import BlockName
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.necks.topologies.extra_levels import Extra, with_extra_levels
from detfuse.ranges import Levels, Repeats, checked


@checked
def unfused(
    levels: Sequence[int],
    *,
    project: bool = True,
    block: BlockName = "conv3",
    depth: Repeats = 1,
    extra_levels: Levels = 2,
    extra: Extra = "from_p",
) -> FusionGraph:
    """FPN without its top-down path.

    >>> print(unfused((3, 4, 5), extra_levels=0))
    p3 = conv3(c3)
    p4 = conv3(c4)
    p5 = conv3(c5)
    outputs: p3, p4, p5 (late fusion)

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
    nodes = []
    for level in levels:
        below = f"c{level}"
        for i in range(1, depth):
            nodes.append(Node(f"b{i}_{level}", level, (below,), block=block))
            below = f"b{i}_{level}"
        nodes.append(Node(f"p{level}", level, (below,), block=block if project else None, project=project))
    graph = FusionGraph(tuple(levels), tuple(nodes), tuple(f"p{i}" for i in levels))
    return with_extra_levels(graph, extra_levels=extra_levels, extra=extra)
