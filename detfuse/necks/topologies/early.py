"""Early fusion: all levels meet once, and one predictor works on the single result."""

from __future__ import annotations

from collections.abc import Sequence

from detfuse.fusion.blocks import BlockName
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.ranges import PositiveInt, checked


@checked
def early(levels: Sequence[int], *, level: PositiveInt | None = None, block: BlockName = "conv3") -> FusionGraph:
    """All backbone maps are fused into one.

    >>> print(early((3, 4, 5)))
    f3 = fuse(c3, c4, c5)
    p3 = conv3(f3)
    outputs: p3 (early fusion)

    Args:
        levels: the backbone's.
        level: where they meet; None is the finest.
        block: what is computed on the fused map.
    """
    at = levels[0] if level is None else level
    nodes = (Node(f"f{at}", at, tuple(f"c{i}" for i in levels)), Node(f"p{at}", at, (f"f{at}",), block=block))
    return FusionGraph(tuple(levels), nodes, (f"p{at}",))
