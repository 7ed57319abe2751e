"""What parts no longer take and where they have gone, so that what was stored before still loads: the one place.

A run's config.yaml and a checkpoint keep the configuration they were made with. Whoever removes an argument writes it
here, with the reason for people who have it in a YAML of their own; whoever moves a part writes where to. From then on
stored configurations are read as :func:`up_to_date` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detfuse.config.signatures import Signature, UnknownTargetError, signature_of

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

_MOVED: dict[str, str] = {}
"""Target -> where it is now."""

_BROUGHT = {"operator": "operator", "resample": "resample_up"}
"""Place of a part that a neck's YAML brings -> the argument in which the neck takes it."""


def why_retired(target: str, argument: str) -> str:
    """``any more: ...;`` for an argument that was removed, else nothing."""
    reason = _RETIRED.get(target, {}).get(argument)
    return f" any more: {reason};" if reason else ""


def moved(target: str) -> str | None:
    """Where a target is now, if it is another place."""
    return _MOVED.get(target)


def up_to_date(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a stored configuration as its parts take it now.

    It has no arguments that were removed, names the parts where they are, and brings no operator and no resampler for
    a neck that takes none: every neck had to name them once.
    """
    current: dict[str, Any] = _up_to_date(config)
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


def _up_to_date(node: Any) -> Any:
    if isinstance(node, Mapping):
        target = str(node.get("_target_"))
        current = {key: _up_to_date(value) for key, value in node.items() if key not in _RETIRED.get(target, {})}
        return current | ({"_target_": _MOVED[target]} if target in _MOVED else {})
    return [_up_to_date(item) for item in node] if isinstance(node, list) else node
