"""The answer of an ablation in one sentence: which arm, in which direction, by how much; also where it is open."""

from __future__ import annotations

from collections.abc import Sequence

from detfuse.ablation.records import Plan
from detfuse.statistics.records import Comparison, Score
from detfuse.statistics.verdict import LEARNT
from detfuse.words import listed, points, with_ends

NAMES = {
    "mAP": "AP",
    "APs": "AP small",
    "APm": "AP medium",
    "APl": "AP large",
}
"""How metrics are called; a class's is called by its category."""

_MOST_OPEN = 3  # arms whose size is told one by one


def title_of(metric: str) -> str:
    """A metric's name for people."""
    return NAMES.get(metric, metric.removeprefix("mAP/"))


def main_metric(comparisons: Sequence[Comparison]) -> str:
    """What the verdicts are about: the first of every comparison."""
    return next((c.differences[0].metric for c in comparisons if c.differences), "mAP")


def headline(plan: Plan, scores: Sequence[Score], comparisons: Sequence[Comparison]) -> str:
    """The answer in a sentence, and what it has to do without."""
    return _answer(plan, scores, comparisons) + _missing(comparisons)


def estimate(comparison: Comparison) -> float:
    """The difference of the main metric, a fraction; 0 where it is undefined."""
    return (comparison.differences[0].estimate if comparison.differences else None) or 0.0


def seeds_alike(comparison: Comparison) -> tuple[int, int]:
    """In how many seeds the difference has the direction of its mean, and how many there are."""
    values = list(comparison.differences[0].per_seed.values()) if comparison.differences else []
    return sum(value * estimate(comparison) > 0 for value in values), len(values)


def _answer(plan: Plan, scores: Sequence[Score], comparisons: Sequence[Comparison]) -> str:
    metric, baseline = main_metric(comparisons), plan.baseline.name
    means = [s.mean for s in scores if s.metric == metric and s.mean is not None]
    if means and max(means) < LEARNT:
        return "No arm reaches one point: nothing was learnt that could be compared."
    of = {
        kind: [c for c in comparisons if c.verdict.kind == kind]
        for kind in ("better", "worse", "equivalent", "identical", "undecided")
    }
    if not any(of.values()):
        return f"Nothing can be said: no arm can be compared with {baseline}."
    unit = f"points {title_of(metric)}"
    if of["better"]:
        best = max(of["better"], key=estimate)
        others = _with_sizes(plan, [c for c in of["better"] if c is not best])
        more = f"; so {'is' if len(others) == 1 else 'are'} {listed(others)}" if others else ""
        worse = _worse(plan, of["worse"], "")
        return f"{_called(plan, best.arm)} is better than {baseline} by {_gain(best, unit)}{more}{worse}."
    if of["worse"] and not any(found for kind, found in of.items() if kind != "worse"):
        return f"{baseline} is better than {listed(_with_sizes(plan, of['worse'], unit))}."
    if not of["undecided"]:
        same = listed([_called(plan, c.arm) for c in (*of["equivalent"], *of["identical"])])
        limit = f" ({100 * plan.equivalence:.4g} {unit} or more)" if of["equivalent"] and plan.equivalence else ""
        used = f"whether {baseline} or {same} is used"
        return f"It makes no difference that matters{limit} {used}{_worse(plan, of['worse'], unit)}."
    alone = len(of["undecided"]) == sum(map(len, of.values()))
    shown = f"No arm is shown to {'differ from' if alone else 'be better than'} {baseline}"
    return f"{shown}{_open(of['undecided'], unit)}{_worse(plan, of['worse'], '')}."


def _open(undecided: Sequence[Comparison], unit: str) -> str:
    """Size and direction of what is open, the largest first, and why nothing can be said of it."""
    known = [c for c in sorted(undecided, key=lambda c: -abs(estimate(c))) if c.differences and c.seeds]
    if not known:
        return ""
    told = [_size(c, unit if not place else "") for place, c in enumerate(known[:_MOST_OPEN])]
    rest = known[_MOST_OPEN:]
    others = f"; the other {len(rest)} by {points(abs(estimate(rest[0])))} or less" if len(rest) > 1 else ""
    others = f"; {_size(rest[0], '')}" if len(rest) == 1 else others
    most = max(len(c.seeds) for c in known)
    if most < 2:
        why = "one seed cannot tell"
    elif any(c.verdict.more_seeds for c in known):
        why = f"{most} seeds are too few to tell"
    else:
        why = "too close to tell"
    return f": {', '.join(told)}{others}; {why}"


def _size(comparison: Comparison, unit: str) -> str:
    size = points(abs(estimate(comparison)))
    alike, seeds = seeds_alike(comparison)
    direction = "higher" if estimate(comparison) > 0 else "lower"
    counted = f" (in {alike} of {seeds} seeds)" if seeds > 1 else ""
    return f"{comparison.arm} is {size} {f'{unit} ' if unit else ''}{direction}{counted}"


def _worse(plan: Plan, worse: Sequence[Comparison], unit: str) -> str:
    names = _with_sizes(plan, worse, unit)
    return f"; {listed(names)} {'is' if len(names) == 1 else 'are'} worse" if names else ""


def _with_sizes(plan: Plan, comparisons: Sequence[Comparison], unit: str = "") -> list[str]:
    """Each arm with its size: ``fpn (by 5.1 points AP)``, the unit at the first."""
    named = []
    for place, comparison in enumerate(comparisons):
        size = f"by {points(abs(estimate(comparison)))}" + (f" {unit}" if unit and not place else "")
        named.append(_called(plan, comparison.arm, size))
    return named


def _called(plan: Plan, arm: str, *more: str) -> str:
    """An arm's name, with what it changes together where that is more than one thing."""
    things = plan.things.get(arm, ())
    noted = [f"{listed(things)} together", *more] if len(things) > 1 else list(more)
    return f"{arm} ({'; '.join(noted)})" if noted else arm


def _gain(comparison: Comparison, unit: str) -> str:
    main = comparison.differences[0] if comparison.differences else None
    if main is None or main.estimate is None or main.low is None or main.high is None:
        return f"{points(estimate(comparison))} {unit}"
    size, low, high = (text.lstrip("+") for text in with_ends(main.estimate, main.low, main.high))
    return f"{size} {unit} (95 % interval {low} to {high})"


def _missing(comparisons: Sequence[Comparison]) -> str:
    """Which pairs of runs the answer has to do without; empty if all are there."""
    gone = sum(len(comparison.dropped) for comparison in comparisons)
    if not gone:
        return ""
    pairs = gone + sum(len(comparison.seeds) for comparison in comparisons)
    whole = [c.arm for c in comparisons if c.verdict.kind == "missing"]
    named = f", all of {listed(whole)}" if whole else ""
    return f" {gone} of {pairs} pairs of runs {'is' if gone == 1 else 'are'} missing{named}."
