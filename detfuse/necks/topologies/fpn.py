"""Feature pyramid network: 1x1 laterals, top-down sums, 3x3 on every sum.

Paper: Feature Pyramid Networks for Object Detection, 2017, https://arxiv.org/abs/1612.03144
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from detfuse.fusion.blocks import BlockName
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.necks.topologies.extra_levels import Extra, with_extra_levels
from detfuse.ranges import Levels, checked


@checked
def fpn(
    levels: Sequence[int], *, block: BlockName = "conv3", extra_levels: Levels = 2, extra: Extra = "from_p"
) -> FusionGraph:
    """See the module's header.

    >>> print(fpn((3, 4, 5)))
    t5 = c5
    t4 = fuse(c4, t5)
    t3 = fuse(c3, t4)
    p3 = conv3(t3)
    p4 = conv3(t4)
    p5 = conv3(t5)
    p6 = strided_conv(p5)
    r6 = relu(p6)
    p7 = strided_conv(r6)
    outputs: p3, p4, p5, p6, p7 (pyramid fusion)

    Args:
        levels: the backbone's.
        block: what smooths the sums.
        extra_levels: levels above the backbone's top.
        extra: where they come from.
    """
    graph = FusionGraph(tuple(levels), tuple(top_down(levels, "p", block)), tuple(f"p{i}" for i in levels))
    return with_extra_levels(graph, extra_levels=extra_levels, extra=extra)


def top_down(levels: Sequence[int], smoothed: str, block: BlockName) -> list[Node]:
    """FPN's inner sums ``t_i`` and their smoothed maps, named ``smoothed`` + level."""
    top = levels[-1]
    sums = [Node(f"t{i}", i, (f"c{i}", f"t{j}")) for i, j in downwards(levels)]
    return [Node(f"t{top}", top, (f"c{top}",)), *sums, *(Node(f"{smoothed}{i}", i, (f"t{i}",), block) for i in levels)]


def downwards(levels: Sequence[int]) -> list[tuple[int, int]]:
    """(level, next coarser level), coarsest first."""
    return list(pairwise(levels))[::-1]
