"""What a detector shows in its first training steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn


@dataclass
class Watched:
    """What a detector shows in its first training steps.

    Attributes:
        passes: through the detector.
        updates: norm with running statistics -> how often it was updated.
        zero: parameters that start at zero and are no biases.
        blocked: parameters whose first gradient is exactly zero.
    """

    passes: int = 0
    updates: dict[str, int] = field(default_factory=dict)
    zero: list[str] = field(default_factory=list)
    blocked: dict[str, bool] = field(default_factory=dict)


@contextmanager
def watched(detector: nn.Module) -> Iterator[Watched]:
    """Look on while a detector takes its first training steps.

    Args:
        detector: as it starts.
    """
    seen = Watched()
    learns = {name: parameter for name, parameter in detector.named_parameters() if parameter.requires_grad}
    seen.zero = [name for name, p in learns.items() if not name.endswith("bias") and not p.detach().any()]

    def count_pass(module: nn.Module, *_: Any) -> None:
        seen.passes += module.training

    def count_update(name: str, module: nn.Module, *_: Any) -> None:
        seen.updates[name] = seen.updates.get(name, 0) + module.training

    def note_gradient(name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        seen.blocked.setdefault(name, not parameter.grad.any())

    hooks = [detector.register_forward_hook(count_pass)]
    for name, module in detector.named_modules():
        if getattr(module, "track_running_stats", False):  # frozen norms have statistics, but track none
            hooks.append(module.register_forward_hook(partial(count_update, name)))
    for name, parameter in learns.items():
        hooks.append(parameter.register_post_accumulate_grad_hook(partial(note_gradient, name)))  # type: ignore[no-untyped-call]  # torch's
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
