"""The verdict on an arm for a colleague who knows no statistics: one sentence or two, no term to look up."""

from __future__ import annotations

from collections.abc import Mapping

from detfuse.ablation.records import Plan
from detfuse.ablation.report.headline import seeds_alike
from detfuse.statistics.records import Comparison, Difference
from detfuse.statistics.verdict import LEARNT
from detfuse.words import listed, points


def plainly(plan: Plan, comparison: Comparison | None, arm: str, means: Mapping[str, float | None]) -> str:
    """What may be concluded about an arm, in plain words.

    Args:
        plan: of the ablation.
        comparison: of the arm with the baseline; None if there is none.
        arm: its name.
        means: arm -> AP (a fraction), for whether anything was learnt at all.
    """
    baseline = plan.baseline.name
    main = comparison.differences[0] if comparison is not None and comparison.differences else None
    if comparison is None or comparison.verdict.kind == "missing" or main is None or main.estimate is None:
        return f"{arm} cannot be judged: no training of it has a finished one of {baseline} to be compared with."
    if max(means.get(arm) or 0.0, means.get(baseline) or 0.0) < LEARNT:
        return f"Neither {arm} nor {baseline} has learnt to find the objects: there is nothing to compare yet."
    said = _said(comparison, main, plan.equivalence)
    things = plan.things.get(arm, ())
    if len(things) > 1 and comparison.verdict.kind != "identical":
        said += f" It differs in {listed(things)} together: which of them does it is not known."
    return said


def _said(comparison: Comparison, main: Difference, equivalence: float) -> str:
    arm, baseline, kind = comparison.arm, comparison.baseline, comparison.verdict.kind
    if kind == "identical":
        return f"{arm} and {baseline} found exactly the same: what differs between them does nothing here."
    scored = _scored(comparison, main)
    if kind == "equivalent":
        limit = f"{100 * equivalence:.4g} points that would matter"
        return f"Take whichever is cheaper: {scored}, and almost certainly the two differ by less than the {limit}."
    if kind in ("better", "worse"):
        return f"{arm} is {kind} than {baseline} here: {scored}. {_trust(main)}"
    if len(main.per_seed) < 2:
        return f"One training cannot tell: {scored}, but another seed may say the opposite. Run three or more."
    if main.low is None or main.high is None:
        return f"Nobody can tell: {scored}, and there is too little to say how far luck reaches."
    more = comparison.verdict.more_seeds
    seeds = f" About {more} more {'seed' if more == 1 else 'seeds'} may settle it." if more else ""
    truth = f"the truth lies anywhere from {_end(main.low)} to {_end(main.high)}"
    return f"Nobody can tell yet: {scored}. Luck alone may do that; {truth}.{seeds}"


def _scored(comparison: Comparison, main: Difference) -> str:
    """What was seen: the mean difference, and in how many of the trainings it had its direction."""
    assert main.estimate is not None
    size, (alike, seeds) = points(abs(main.estimate)), seeds_alike(comparison)
    if not float(size):
        return f"it scored as high as {comparison.baseline}" + (" on average" if seeds > 1 else "")
    direction = "higher" if main.estimate > 0 else "lower"
    if seeds < 2:
        return f"it scored {size} points {direction}"
    counted = f"{alike} of {seeds}" if alike < seeds else "both" if seeds == 2 else f"each of {seeds}"
    return f"it scored {size} points {direction}, and {direction} in {counted} trainings"


def _trust(main: Difference) -> str:
    """Why a decided verdict may be believed; its interval may hold 0 where an earlier look decided it."""
    if main.low is not None and main.high is not None and not main.low <= 0 <= main.high:
        return "Luck alone hardly ever does that."
    return "An earlier look, after fewer trainings, has decided it."


def _end(fraction: float) -> str:
    size = points(abs(fraction))
    return "no difference" if not float(size) else f"{size} {'higher' if fraction > 0 else 'lower'}"
