"""The skips of FCN-8s as a neck: from the top, the map is doubled by a learned deconvolution and the finer one added.

Paper: Fully Convolutional Networks for Semantic Segmentation, 2015, https://arxiv.org/abs/1411.4038, section 4.2
Variant: its operator is add, its resampler a transposed convolution that starts as bilinear interpolation and is learnt
on from there; nothing smooths the sums, so that ``block`` alone stands between it and an FPN that up-samples so.
Deviations: the paper's 1x1 convolutions predict scores, a channel per class, and its sums are sums of scores; here both
have the neck's width. Every sum is an output; in the paper the finest goes on to the pixels, by eight. Its skips were
added one by one to a trained net and began at zero; here all are trained at once and begin by the neck's fill. Maps are
brought to the finer one's size, not cropped, and the deconvolutions have a bias.
"""

from __future__ import annotations

from collections.abc import Sequence

from detfuse.fusion.blocks import BlockName
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.necks.topologies.extra_levels import Extra, with_extra_levels
from detfuse.necks.topologies.fpn import downwards, top_down
from detfuse.ranges import Levels, checked


@checked
def fcn_skip(
    levels: Sequence[int],
    *,
    block: BlockName | None = None,
    extra_levels: Levels = 2,
    extra: Extra = "from_p",
) -> FusionGraph:
    """See the module's header.

    >>> print(fcn_skip((3, 4, 5), extra_levels=0))
    p5 = c5
    p4 = fuse(c4, p5)
    p3 = fuse(c3, p4)
    outputs: p3, p4, p5 (pyramid fusion)

    Args:
        levels: the backbone's.
        block: what smooths the sums before the head sees them, as in FPN; None, as in the paper, is nothing.
        extra_levels: levels above the backbone's top.
        extra: where they come from.
    """
    if block is None:
        top = levels[-1]
        sums = (Node(f"p{i}", i, (f"c{i}", f"p{j}")) for i, j in downwards(levels))
        nodes = [Node(f"p{top}", top, (f"c{top}",)), *sums]
    else:
        nodes = top_down(levels, "p", block)
    graph = FusionGraph(tuple(levels), tuple(nodes), tuple(f"p{i}" for i in levels))
    return with_extra_levels(graph, extra_levels=extra_levels, extra=extra)
