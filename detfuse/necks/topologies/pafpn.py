"""Path aggregation: FPN, then a bottom-up path n_i.

Paper: Path Aggregation Network for Instance Segmentation, 2018, https://arxiv.org/abs/1803.01534
Variants: what goes up to the next level is the smoothed map (``paper``, which also has a ReLU: set the neck's
``activation: relu``) or the plain sum, smoothed for the output only (``mmdetection``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from detfuse.fusion.blocks import BlockName
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.necks.topologies.extra_levels import Extra, with_extra_levels
from detfuse.necks.topologies.fpn import top_down
from detfuse.ranges import Levels, checked


@checked
def pafpn(
    levels: Sequence[int],
    *,
    variant: Literal["paper", "mmdetection"] = "mmdetection",
    block: BlockName = "conv3",
    extra_levels: Levels = 2,
    extra: Extra = "from_p",
) -> FusionGraph:
    """See the module's header.

    >>> print(pafpn((3, 4), extra_levels=0))
    t4 = c4
    t3 = fuse(c3, t4)
    p3 = conv3(t3)
    f4 = conv3(t4)
    n4 = fuse(f4, p3)
    p4 = conv3(n4)
    outputs: p3, p4 (pyramid fusion)

    Args:
        levels: the backbone's.
        variant: what goes up.
        block: what smooths the sums of both paths.
        extra_levels: levels above the backbone's top.
        extra: where they come from.
    """
    finest = levels[0]
    # the finest level has no second sum: its output is the first path's
    nodes = [
        Node(f"p{finest}", finest, n.inputs, n.block) if n.name == f"f{finest}" else n
        for n in top_down(levels, "f", block)
    ]
    below = f"p{finest}"
    for i in levels[1:]:
        nodes += [Node(f"n{i}", i, (f"f{i}", below)), Node(f"p{i}", i, (f"n{i}",), block)]
        below = f"p{i}" if variant == "paper" else f"n{i}"
    graph = FusionGraph(tuple(levels), tuple(nodes), tuple(f"p{i}" for i in levels))
    return with_extra_levels(graph, extra_levels=extra_levels, extra=extra)
