"""What became of parts and their arguments, so that what was stored before still loads: the one place for it.

A run's config.yaml and a checkpoint keep the configuration they were made with. Whoever moves a part writes here where
to; whoever removes an argument writes it here, with the reason for people who have it in a YAML of their own. From then
on stored configurations are read as :func:`up_to_date` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detfuse.config.schema.signatures import UnknownTargetError, signature_of

_MOVED = {
    "detfuse.data.datamodule.CocoDataModule": "detfuse.data.datamodule.FolderDataModule",
    "detfuse.inserts.Levels": "detfuse.attention.inserts.Levels",
}
"""Target -> where it stands now."""

_RETIRED: dict[str, dict[str, str]] = {
    "detfuse.ops.postprocess.WeightedBoxFusion": {"score": "it is always the mean, as in the paper"},
    "detfuse.training.progress.ProgressReport": {"refresh_per_second": "the bar is drawn four times a second"},
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

_LEFT = {("detfuse.ops.postprocess.WeightedBoxFusion", "score"): "mean"}
"""What is left of choices that change results: a stored one that chose otherwise is not read as if it had not."""

_BROUGHT = {"operator": "operator", "resample": "resample_up"}
"""Place of a part that a neck's YAML brings -> the argument in which the neck takes it."""


def why_retired(target: str, argument: str) -> str:
    """``any more: ...;`` for an argument that was removed, else nothing."""
    reason = _RETIRED.get(target, {}).get(argument)
    return f" any more: {reason};" if reason else ""


def moved(target: str) -> str:
    """Where a target stands now; the target itself if it never stood elsewhere."""
    return _MOVED.get(target, target)


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
    taken = None if signature is None or signature.open else signature.parameters
    idle = [place for place, argument in _BROUGHT.items() if taken is not None and argument not in taken]
    return {key: node for key, node in current.items() if key not in idle}


def _up_to_date(node: Any) -> Any:
    """Parts where they stand now, without the arguments they no longer take.

    One that chose what is no longer offered stays, so that it is refused with the reason.
    """
    if isinstance(node, Mapping):
        target = moved(str(node.get("_target_")))
        retired = {key for key in _RETIRED.get(target, {}) if node.get(key) == _LEFT.get((target, key), node.get(key))}
        kept = {key: value for key, value in node.items() if key not in retired}
        return {key: target if key == "_target_" else _up_to_date(value) for key, value in kept.items()}
    return [_up_to_date(item) for item in node] if isinstance(node, list) else node
