"""Levels above the backbone's, P6 and P7 on C3 to C5: a step from graph to graph.

Sources: ``max_pool``: Faster R-CNN with FPN (Lin et al. 2017, arXiv 1612.03144), which sub-samples the last output;
``from_c``: RetinaNet (Lin et al. 2017, arXiv 1708.02002), 3x3/2 convolutions from the last backbone map, a ReLU between
them; ``from_p``: FCOS (Tian et al. 2019, arXiv 1904.01355), the same from the last output.
"""

from __future__ import annotations

from typing import Literal

from detfuse.fusion.graph import FusionGraph, GraphError, Node
from detfuse.ranges import Levels, checked

Extra = Literal["max_pool", "from_c", "from_p"]
"""Where the first level above the others comes from; each further one comes from the one below."""


@checked
def with_extra_levels(graph: FusionGraph, *, extra_levels: Levels, extra: Extra) -> FusionGraph:
    """The graph with outputs above its coarsest one.

    >>> from detfuse.necks.topologies import early
    >>> print(with_extra_levels(early((3, 4), level=4), extra_levels=2, extra="from_p"))
    f4 = fuse(c3, c4)
    p4 = conv3(f4)
    p5 = strided_conv(p4)
    r5 = relu(p5)
    p6 = strided_conv(r5)
    outputs: p4, p5, p6 (early fusion)

    Args:
        graph: whose coarsest output lies at ``p<level>``.
        extra_levels: how many.
        extra: see the module's header.

    Raises:
        GraphError: for ``from_c``, if the backbone has no map of the coarsest output's level.
    """
    top, last = graph.out_levels[-1], graph.outputs[-1]
    nodes: list[Node] = []
    outputs = list(graph.outputs)
    for level in range(top + 1, top + 1 + extra_levels):
        below, name = outputs[-1], f"p{level}"
        if extra == "max_pool":
            nodes.append(Node(name, level, (below,), down="subsample"))
        elif level > top + 1:
            nodes.append(Node(f"r{level - 1}", level - 1, (below,), block="relu"))
            nodes.append(Node(name, level, (f"r{level - 1}",), down="strided_conv"))
        elif extra == "from_p":
            nodes.append(Node(name, level, (last,), down="strided_conv"))
        elif f"c{top}" in graph.backbone:
            nodes.append(Node(name, level, (f"c{top}",), down="strided_conv", project=False))
        else:
            raise GraphError(f"extra=from_c: the backbone has no c{top}, it has {', '.join(graph.backbone)}")
        outputs.append(name)
    return FusionGraph(graph.in_levels, (*graph.nodes, *nodes), tuple(outputs))
