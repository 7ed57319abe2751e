"""HyperNet's feature: all levels are brought to the middle one, normalised, and fused there; then a pyramid is made.

Paper: HyperNet: Towards Accurate Region Proposal Generation and Joint Object Detection, 2016,
https://arxiv.org/abs/1604.00600, section 3.1
Variant: its operator is concat, its resamplers max pooling for the finer maps and a transposed convolution for the
coarser ones; every map is resampled, convolved and normalised, in this order.
Deviations: the norm is SSD's L2Norm (ParseNet, 2015, https://arxiv.org/abs/1506.04579) and not local response
normalisation, which leaves small activations as they are: behind it the fused map depends on no level's scale. A 1x1
projection comes before the resampling. The paper predicts from the fused map alone (``single``); otherwise a pyramid is
regenerated from it as in :mod:`detfuse.necks.topologies.early_pyramid`, upwards too, so that a head sees the levels of
an FPN. No map of a node's own level is there to guide a resampler, so one that looks at it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from detfuse.fusion.blocks import BlockName
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.necks.topologies.early_pyramid import regenerated
from detfuse.ranges import Levels, PositiveInt, checked


@checked
def hypernet(
    levels: Sequence[int],
    *,
    level: PositiveInt | None = None,
    block: BlockName = "conv3",
    single: bool = False,
    extra_levels: Levels = 2,
) -> FusionGraph:
    """See the module's header.

    >>> print(hypernet((3, 4, 5), extra_levels=0))
    s3 = conv3(c3)
    h3 = l2_norm(s3)
    s4 = conv3(c4)
    h4 = l2_norm(s4)
    s5 = conv3(c5)
    h5 = l2_norm(s5)
    f4 = fuse(h3, h4, h5)
    p4 = conv3(f4)
    p3 = conv3(p4)
    p5 = conv3(p4)
    outputs: p3, p4, p5 (early fusion)

    Args:
        levels: the backbone's.
        level: where they meet; None is the middle one, the finer of two.
        block: what is computed on every map.
        single: whether the fused map is the only output; there are no extra levels then.
        extra_levels: levels above the backbone's top.
    """
    at = levels[(len(levels) - 1) // 2] if level is None else level
    nodes = []
    for i in levels:
        nodes += [Node(f"s{i}", at, (f"c{i}",), block), Node(f"h{i}", at, (f"s{i}",), "l2_norm")]
    nodes += [Node(f"f{at}", at, tuple(f"h{i}" for i in levels)), Node(f"p{at}", at, (f"f{at}",), block)]
    fused = FusionGraph(tuple(levels), tuple(nodes), (f"p{at}",))
    return fused if single else regenerated(fused, levels[0], levels[-1] + extra_levels, block)
