"""What became of parts and their arguments, so that what was stored before still loads: the one place for it.

A run's config.yaml and a checkpoint keep the configuration they were made with. Whoever moves a part or removes an
argument writes it here, the latter with the reason for people who have it in a YAML of their own; from then on stored
configurations are read accordingly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detfuse.config.signatures import Signature, UnknownTargetError, signature_of

_MOVED = {
    "detfuse.inserts.Levels": "detfuse.attention.inserts.Levels",
}
"""Target -> where it stands now."""

_RETIRED: dict[str, dict[str, str]] = {
    "detfuse.training.loggers.MetricsCsv": {"file_name": "it is always metrics.csv, which monitor and report read"},
    "detfuse.training.loggers.tensorboard": {
        "folder": "it is always tensorboard",
        "flush_secs": "events are written every 30 seconds",
    },
    "detfuse.training.fusion_weights.FusionWeights": {
        "file_name": "it is always fusion_weights.csv, which the report reads"
    },
}
"""Target -> argument -> why there is no such choice any more."""

_BROUGHT = {"operator": "operator", "resample": "resample_up"}
"""Place of a part that a neck's YAML brings -> the argument in which the neck takes it."""


def why_retired(target: str, argument: str) -> str:
    """``any more: ...;`` for an argument that was removed, else nothing."""
    reason = _RETIRED.get(target, {}).get(argument)
    return f" any more: {reason};" if reason else ""


def moved(target: str) -> str:
    """Where a target stands now; the target itself if it never stood elsewhere."""
    return _MOVED.get(target, target)


def brought_up_to_date(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a stored configuration: its parts where they stand now, without the arguments they no longer take.

    It brings no operator and no resampler for a neck that takes none: every neck had to name them once.
    """
    current: dict[str, Any] = _brought_up_to_date(config)
    neck = current.get("neck")
    try:
        signature = signature_of(str(neck.get("_target_"))) if isinstance(neck, Mapping) else None
    except UnknownTargetError:  # one's own, perhaps gone: what it took nobody knows
        signature = None
    idle = idle_parts(signature)
    return {key: node for key, node in current.items() if key not in idle}


def idle_parts(neck: Signature | None) -> list[str]:
    """Places of the parts that a neck's YAML may bring, but this neck does not take; none if it cannot be read."""
    if neck is None or neck.open:
        return []
    return [place for place, argument in _BROUGHT.items() if argument not in neck.parameters]


def _brought_up_to_date(node: Any) -> Any:
    if isinstance(node, Mapping):
        target = moved(str(node.get("_target_")))
        kept = {key: value for key, value in node.items() if key not in _RETIRED.get(target, {})}
        return {key: target if key == "_target_" else _brought_up_to_date(value) for key, value in kept.items()}
    return [_brought_up_to_date(item) for item in node] if isinstance(node, list) else node
