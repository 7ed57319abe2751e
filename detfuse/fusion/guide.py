"""The guide: the map of a node's own level, which parts of the node may look at (see :mod:`detfuse.protocols`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def is_guided(part: nn.Module | None) -> bool:
    """Whether an operator, a resampler or an edge looks at the guide."""
    return bool(getattr(part, "guided", False))


def with_guide(part: nn.Module, guide: Tensor | None, *given: Any) -> Tensor:
    """What a part makes of what every such part is given, and of the guide if it looks at one."""
    made: Tensor = part(*given, guide) if is_guided(part) else part(*given)
    return made
