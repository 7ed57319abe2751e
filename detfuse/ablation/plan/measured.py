"""The noise that earlier runs of the same kind showed: those of this ablation, and of the others that lie beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detfuse.ablation.plan.prepared import CONFIGS, Prepared
from detfuse.ablation.storage import PLAN, read_comparisons, read_plan
from detfuse.config.retired import up_to_date
from detfuse.errors import InputError
from detfuse.files.plain import read_yaml
from detfuse.files.records import loaded
from detfuse.statistics.records import Comparison
from detfuse.statistics.resolution import Noise, pooled
from detfuse.words import listed


class Measured(NamedTuple):
    """What earlier runs showed.

    Attributes:
        noise: of one difference.
        by: which runs, for people.
    """

    noise: Noise
    by: str


def measured_noise(folder: Path, prepared: Prepared) -> Measured | None:
    """What the ablations in a folder and beside it showed that have the same data and schedule; None if none has.

    What cannot be read there belongs to somebody else, or to an older version, and is left out.

    Args:
        folder: of the ablation that is planned; it need not exist.
        prepared: its plan.
    """
    kind = _kind(prepared.resolved[prepared.plan.baseline.name].config)
    found: dict[str, list[Comparison]] = {}
    for plan in sorted(folder.parent.glob(f"*/{PLAN}")):
        with contextlib.suppress(InputError, OSError, KeyError, TypeError):
            baseline = read_plan(plan.parent).baseline.name
            config = up_to_date(loaded(plan.parent / CONFIGS / f"{baseline}.yaml", read_yaml))
            if _kind(config) == kind:
                found[plan.parent.name] = read_comparisons(plan.parent)
    noise = pooled(one for comparisons in found.values() for one in comparisons)
    if noise is None:
        return None
    told = [name for name, comparisons in found.items() if pooled(comparisons) is not None]
    return Measured(noise, f"the runs of {listed(told)}, with the same data and schedule")


def _kind(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What noise depends on most, apart from what is compared."""
    return config["data"], config["trainer"]["max_epochs"]
