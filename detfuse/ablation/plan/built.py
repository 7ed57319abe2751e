"""What a choice brings along that is no setting: read from the detectors as they were built."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from torch import nn

from detfuse.fusion.blocks import BLOCKS
from detfuse.fusion.graph import FusionGraph
from detfuse.inspect.summary import PARTS

_NORM = re.compile(r"[A-Z]\w*Norm(\dd)?")


def description_of(detector: nn.Module) -> Mapping[str, str]:
    """A detector in a few rows, such that two which differ in a row are not the same network: name -> text.

    Args:
        detector: has ``backbone``, ``neck`` and ``head``.
    """
    rows = {}
    for part in PARTS:
        module = detector.get_submodule(part)
        rows[f"parameters of the {part}"] = f"{sum(parameter.numel() for parameter in module.parameters()):,}"
        rows[f"norms of the {part}"] = _norms(module)
    graph = getattr(detector.get_submodule("neck"), "graph", None)
    if graph is not None:
        rows["blocks"] = _blocks(graph)
        rows["levels above the backbone's"] = _levels_above(graph)
    return rows


def _norms(module: nn.Module) -> str:
    """``8 GroupNorm, 12 LayerNorm``."""
    kinds = Counter(kind for child in module.modules() if (kind := _kind_of_norm(child)))
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"


def _kind_of_norm(module: nn.Module) -> str:
    """The name of a norm's class, of torch's if it is derived from one; empty if it is no norm."""
    names = [cls.__name__ for cls in type(module).__mro__ if _NORM.fullmatch(cls.__name__)]
    of_torch = [name for name in names if hasattr(nn, name)]
    return next(iter([*of_torch, *names]), "")


def _blocks(graph: FusionGraph) -> str:
    """``conv3 at stride 8, 16 (2), 32``: where the blocks with weights stand, and how many of them."""
    places: dict[str, Counter[int]] = {}
    for node in graph.nodes:
        if node.block is not None and BLOCKS[node.block].changes_width:
            places.setdefault(node.block, Counter())[2**node.level] += 1
    return "; ".join(f"{block} at stride {_counted(strides)}" for block, strides in sorted(places.items())) or "none"


def _counted(strides: Counter[int]) -> str:
    return ", ".join(f"{stride}" if count == 1 else f"{stride} ({count})" for stride, count in sorted(strides.items()))


def _levels_above(graph: FusionGraph) -> str:
    """How the first map of every level above the backbone's is made."""
    made: dict[int, str] = {}
    for node in graph.nodes:
        if node.level > max(graph.in_levels) and node.level not in made:
            then = f", then {node.block}" if node.block else ""
            made[node.level] = f"{2**node.level}: {node.down or 'resample.down'} from {' and '.join(node.inputs)}{then}"
    return "; ".join(made[level] for level in sorted(made)) or "none"
