"""U-Net's decoder: the *processed* map goes on downwards, where FPN hands the plain sum on.

Paper: U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015, https://arxiv.org/abs/1505.04597
Variant: its operator is concat, its resampler a transposed convolution, its block twice 3x3.
Deviation: the paper's weights start as Gaussians of variance 2 / fan-in; here the neck's fill starts them, as in FPN.
"""

from __future__ import annotations

from collections.abc import Sequence

from detfuse.fusion.blocks import BlockName
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.necks.topologies.extra_levels import Extra, with_extra_levels
from detfuse.necks.topologies.fpn import downwards
from detfuse.ranges import Levels, checked


@checked
def unet(
    levels: Sequence[int],
    *,
    block: BlockName = "double_conv3",
    extra_levels: Levels = 2,
    extra: Extra = "from_p",
) -> FusionGraph:
    """Each fused map passes its block before it is both output and input of the next finer level.

    >>> print(unet((3, 4, 5), extra_levels=0))
    p5 = double_conv3(c5)
    p4 = double_conv3(fuse(c4, p5))
    p3 = double_conv3(fuse(c3, p4))
    outputs: p3, p4, p5 (pyramid fusion)

    Args:
        levels: the backbone's.
        block: what is computed on every map.
        extra_levels: levels above the backbone's top.
        extra: where they come from.
    """
    top = levels[-1]
    fused = [Node(f"p{i}", i, (f"c{i}", f"p{j}"), block) for i, j in downwards(levels)]
    nodes = (Node(f"p{top}", top, (f"c{top}",), block), *fused)
    graph = FusionGraph(tuple(levels), nodes, tuple(f"p{i}" for i in levels))
    return with_extra_levels(graph, extra_levels=extra_levels, extra=extra)
