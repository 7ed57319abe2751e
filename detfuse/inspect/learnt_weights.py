"""The scalars that a detector has learnt, such as the weights of its fusion."""

from __future__ import annotations

from torch import nn

from detfuse.protocols import Learnt


def learnt_weights(detector: nn.Module) -> dict[str, float]:
    """All scalars that the modules of a detector tell (see :class:`detfuse.protocols.Learnt`), in their order."""
    graph = getattr(getattr(detector, "neck", None), "graph", None)
    nodes = {f"neck.operators.{node.name}": node for node in graph.nodes} if graph is not None else {}
    found = {}
    for path, module in detector.named_modules():
        for name, value in module.learnt().items() if isinstance(module, Learnt) else ():
            node = nodes.get(path)
            found[f"{node.name}<-{node.inputs[int(name)]}" if node else f"{path}.{name}"] = value
    return found
