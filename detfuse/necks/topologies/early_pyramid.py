"""Early fusion, then a pyramid is regenerated from the fused map: the same levels as FPN, one fusion.

Paper: FSSD: Feature Fusion Single Shot Multibox Detector, 2017, https://arxiv.org/abs/1712.00960
Variant: each level is the one below, down-sampled (in the paper by strided convolutions) and passed through a block.
"""

from __future__ import annotations

from collections.abc import Sequence

from detfuse.fusion.blocks import BlockName
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.necks.topologies.early import early
from detfuse.ranges import Levels, PositiveInt, checked


@checked
def early_pyramid(
    levels: Sequence[int],
    *,
    level: PositiveInt | None = None,
    block: BlockName = "conv3",
    extra_levels: Levels = 2,
) -> FusionGraph:
    """The graph of :func:`early`, and coarser levels made of its output.

    >>> print(early_pyramid((3, 4, 5), extra_levels=0))
    f3 = fuse(c3, c4, c5)
    p3 = conv3(f3)
    p4 = conv3(p3)
    p5 = conv3(p4)
    outputs: p3, p4, p5 (early fusion)

    Args:
        levels: the backbone's.
        level: where they meet, the finest output; None is the finest backbone level.
        block: what is computed on each level.
        extra_levels: levels above the backbone's top.
    """
    fused = early(levels, level=level, block=block)
    return regenerated(fused, fused.out_levels[0], levels[-1] + extra_levels, block)


def regenerated(fused: FusionGraph, finest: int, coarsest: int, block: BlockName) -> FusionGraph:
    """A graph of one output, and further outputs made of it level by level: finer ones, then coarser ones."""
    at = fused.out_levels[0]
    finer = [Node(f"p{i}", i, (f"p{i + 1}",), block=block) for i in range(at - 1, finest - 1, -1)]
    coarser = [Node(f"p{i}", i, (f"p{i - 1}",), block=block) for i in range(at + 1, coarsest + 1)]
    outputs = (*(node.name for node in reversed(finer)), *fused.outputs, *(node.name for node in coarser))
    return FusionGraph(fused.in_levels, (*fused.nodes, *finer, *coarser), outputs)
