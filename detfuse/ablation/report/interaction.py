"""Where the order of one factor's levels depends on another's: the best learning rate differs between necks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from detfuse.ablation.records import Plan
from detfuse.statistics.records import Score
from detfuse.words import points


def order_flips(plan: Plan, scores: Sequence[Score], metric: str) -> list[str]:
    """Sentences about pairs of levels of the first factor whose order is not the same at every level of the others.

    Means are compared as they are, so an order may flip within the noise; the sentence gives the differences, and one
    about the best levels follows. Only plans in which all combinations of their factors were run have such pairs.

    Args:
        plan: of the ablation.
        scores: of all arms.
        metric: whose means are compared.
    """
    means = {score.arm: score.mean for score in scores if score.metric == metric}
    keys = list(dict.fromkeys(key for arm in plan.arms for key in arm.factors))
    known = [arm for arm in plan.arms if list(arm.factors) == keys and means.get(arm.name) is not None]
    if len(keys) < 2 or len(known) < 4:
        return []
    table: dict[str, dict[str, float]] = {}  # level of the first factor -> the others' levels -> mean
    for arm in known:
        mean = means[arm.name]
        assert mean is not None
        first, others = _split(arm.factors, keys)
        table.setdefault(first, {})[others] = mean
    flips = [text for a, b in combinations(table, 2) if (text := _flip(a, b, table[a], table[b]))]
    if not flips:
        return []
    best = "; ".join(f"{max(row, key=row.__getitem__)} for {level}" for level, row in table.items())
    return [*flips, f"The highest mean is at {best}: compare each level at its own best, or say at which it was."]


def _split(factors: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, str]:
    return str(factors[keys[0]]), ", ".join(f"{key}={factors[key]}" for key in keys[1:])


def _flip(a: str, b: str, of_a: Mapping[str, float], of_b: Mapping[str, float]) -> str:
    """The widest difference in either direction; empty if there is but one direction."""
    differences = {at: of_a[at] - of_b[at] for at in of_a if at in of_b}
    if not differences or min(differences.values()) >= 0 or max(differences.values()) <= 0:
        return ""
    above, below = max(differences, key=differences.__getitem__), min(differences, key=differences.__getitem__)
    return (
        f"The order flips: {a} is {points(differences[above])} points above {b} at {above}, and "
        f"{points(-differences[below])} below it at {below}."
    )
