"""A top-down pyramid with dense connections: every map is fused from its level and all coarser maps.

Paper: Densely Connected Convolutional Networks, 2017, https://arxiv.org/abs/1608.06993: the connections, here between
the levels of a pyramid, from the top
Variant: its operator is concat; what goes on is the processed map, as there.
Deviations: the paper's layers lie on one grid and add a few channels each; here the coarser maps are up-sampled to each
finer grid, and the operator brings the stack back to the neck's width. Its norm and ReLU are the neck's ``norm`` and
``activation``, which are off by default.
"""

from __future__ import annotations

from collections.abc import Sequence

from detfuse.fusion.blocks import BlockName
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.necks.topologies.extra_levels import Extra, with_extra_levels
from detfuse.ranges import Levels, checked


@checked
def dense_pyramid(
    levels: Sequence[int], *, block: BlockName = "conv3", extra_levels: Levels = 2, extra: Extra = "from_p"
) -> FusionGraph:
    """See the module's header.

    >>> print(dense_pyramid((3, 4, 5), extra_levels=0))
    p5 = conv3(c5)
    p4 = conv3(fuse(c4, p5))
    p3 = conv3(fuse(c3, p4, p5))
    outputs: p3, p4, p5 (pyramid fusion)

    Args:
        levels: the backbone's.
        block: what is computed on every map.
        extra_levels: levels above the backbone's top.
        extra: where they come from.
    """
    fused = [Node(f"p{i}", i, (f"c{i}", *(f"p{j}" for j in levels if j > i)), block) for i in reversed(levels)]
    graph = FusionGraph(tuple(levels), tuple(fused), tuple(f"p{i}" for i in levels))
    return with_extra_levels(graph, extra_levels=extra_levels, extra=extra)
