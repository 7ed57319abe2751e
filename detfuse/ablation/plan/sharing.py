"""Which arms share a training: those that differ in nothing but what is applied after it. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from detfuse.ablation.plan.things import of_science
from detfuse.config.kinds import AFTER_TRAINING
from detfuse.config.leaves import differences
from detfuse.config.resolve import Resolved
from detfuse.config.schema.overrides import is_below


def shared_trainings(resolved: Mapping[str, Resolved]) -> dict[str, str]:
    """Arm -> the arm before it whose trained detectors it scores again, for every arm that need not be trained.

    Arms that are configured alike have a training each: they show what two runs of one thing differ in.

    Args:
        resolved: arm -> what it resolves to, the baseline first.
    """
    found: dict[str, str] = {}
    for name, arm in resolved.items():
        for other in (other for other in resolved if other not in found):
            if other == name:
                break
            paths = of_science(differences(resolved[other].config, arm.config))
            if paths and all(is_below(path, AFTER_TRAINING) for path in paths):
                found[name] = other
                break
    return found
