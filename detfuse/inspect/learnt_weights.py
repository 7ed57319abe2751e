"""The scalars that a detector has learnt, such as the weights of its fusion."""

from __future__ import annotations

from torch import nn

from detfuse.necks.graph_neck import GraphNeck
from detfuse.protocols import Learnt


def learnt_weights(detector: nn.Module) -> dict[str, float]:
    """All scalars that the modules of a detector tell (see :class:`detfuse.protocols.Learnt`), in their order."""
    neck = getattr(detector, "neck", None)
    nodes = {f"neck.operators.{node.name}": node for node in neck.graph.nodes} if isinstance(neck, GraphNeck) else {}
    found = {}
    for path, module in detector.named_modules():
        for name, value in module.learnt().items() if isinstance(module, Learnt) else ():
            node = nodes.get(path)
            found[f"{node.name}<-{node.inputs[int(name)]}" if node else f"{path}.{name}"] = value
    return found
