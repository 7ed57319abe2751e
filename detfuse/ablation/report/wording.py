"""Numbers and verdicts in words. AP is a fraction in the records and points for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detfuse.ablation.records import Plan
from detfuse.statistics.records import Comparison, Difference, Score, Verdict
from detfuse.statistics.verdict import LEARNT
from detfuse.words import aligned, listed, points, signed

MINUS, NARROW = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}"
NAMES = {
    "mAP": "AP",
    "APs": "AP small",
    "APm": "AP medium",
    "APl": "AP large",
}
"""How metrics are called; a class's is called by its category."""


def title_of(metric: str) -> str:
    """A metric's name for people."""
    return NAMES.get(metric, metric.removeprefix("mAP/"))


def in_points(fraction: float | None) -> float | None:
    """A fraction in points."""
    return None if fraction is None else 100 * fraction


def typeset(fraction: float | None, decimals: int, *, sign: bool = False) -> str:
    """Points as a page has them: with a real minus, and without a sign where rounding leaves nothing."""
    text = signed(fraction, decimals) if sign else points(fraction, decimals)
    return (text if text.strip("+-0.") else text.lstrip("+-")).replace("-", MINUS)


def interval(difference: Difference, decimals: int) -> str:
    """A difference with its interval."""
    if difference.estimate is None:
        return "n/a"
    estimate = typeset(difference.estimate, decimals, sign=True)
    if difference.low is None or difference.high is None:
        return f"{estimate} (no interval)"
    low, high = (typeset(end, decimals, sign=True) for end in (difference.low, difference.high))
    return f"{estimate} [{low}, {high}]"


def decimals_for(comparisons: Sequence[Comparison]) -> int:
    """One decimal beyond the noise: of intervals that are narrower than a point to each side, two."""
    halves = [
        100 * (main.high - main.low) / 2
        for comparison in comparisons
        for main in comparison.differences[:1]
        if main.high is not None and main.low is not None and main.high > main.low
    ]
    return 2 if halves and min(halves) < 1 else 1


def main_metric(comparisons: Sequence[Comparison]) -> str:
    """What the verdicts are about: the first of every comparison."""
    return next((c.differences[0].metric for c in comparisons if c.differences), "mAP")


def headline(plan: Plan, scores: Sequence[Score], comparisons: Sequence[Comparison]) -> str:
    """The answer in a sentence, and what it has to do without."""
    return _answer(plan, scores, comparisons) + _missing(comparisons)


def _answer(plan: Plan, scores: Sequence[Score], comparisons: Sequence[Comparison]) -> str:
    means = [s.mean for s in scores if s.metric == main_metric(comparisons) and s.mean is not None]
    if means and max(means) < LEARNT:
        return "No arm reaches one point: nothing was learnt that could be compared."
    decimals, baseline = decimals_for(comparisons), plan.baseline.name
    compared = [c for c in comparisons if c.verdict.kind != "missing"]
    if not compared:
        return f"Nothing can be said: no arm can be compared with {baseline}."
    kinds = {comparison.verdict.kind for comparison in compared}
    better = [c for c in compared if c.verdict.kind == "better" and c.differences]
    if better:
        best = max(better, key=lambda comparison: comparison.differences[0].estimate or 0)
        others = [_called(plan, c.arm) for c in better if c is not best]
        more = f"; so {'is' if len(others) == 1 else 'are'} {listed(others)}" if others else ""
        return f"{_called(plan, best.arm)} is better than {baseline} by {_gain(best.differences[0], decimals)}{more}."
    worse = [_called(plan, c.arm) for c in compared if c.verdict.kind == "worse"]
    if kinds == {"worse"}:
        return f"{baseline} is better than {listed(worse)}."
    tail = f"; {listed(worse)} {'is' if len(worse) == 1 else 'are'} worse" if worse else ""
    if kinds <= {"equivalent", "identical", "worse"}:
        same = listed([_called(plan, c.arm) for c in compared if c.verdict.kind != "worse"])
        return f"It makes no difference that matters whether {baseline} or {same} is used{tail}."
    open_ = "differ from" if kinds == {"undecided"} else "be better than"
    return f"No arm is shown to {open_} {baseline}{tail}."


def _missing(comparisons: Sequence[Comparison]) -> str:
    """Which pairs of runs the answer has to do without; empty if all are there."""
    gone = sum(len(comparison.dropped) for comparison in comparisons)
    if not gone:
        return ""
    pairs = gone + sum(len(comparison.seeds) for comparison in comparisons)
    whole = [c.arm for c in comparisons if c.verdict.kind == "missing"]
    named = f", all of {listed(whole)}" if whole else ""
    return f" {gone} of {pairs} pairs of runs {'is' if gone == 1 else 'are'} missing{named}."


def _called(plan: Plan, arm: str) -> str:
    """An arm's name, with what it changes together where that is more than one thing."""
    things = plan.things.get(arm, ())
    return f"{arm} ({listed(things)} together)" if len(things) > 1 else arm


def _gain(difference: Difference, decimals: int) -> str:
    text = f"{typeset(difference.estimate, decimals)} points {title_of(difference.metric)}"
    if difference.low is None or difference.high is None:
        return text
    return f"{text} (95 % interval {typeset(difference.low, decimals)} to {typeset(difference.high, decimals)})"


def coverage(comparisons: Sequence[Comparison], num_images: int) -> str:
    """What the intervals cover: "95 % interval over 3 seeds and 60 images"."""
    counts = sorted({len(comparison.seeds) for comparison in comparisons if comparison.seeds})
    images = f"{num_images:,} images"
    if not counts or counts[-1] < 2:
        return f"95 % interval over {images} only: with one seed the spread between seeds is not covered"
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"95 % interval over {seeds} seeds and {images}"


def summary_text(
    plan: Plan, scores: Sequence[Score], comparisons: Sequence[Comparison], pairs: Sequence[Comparison] = ()
) -> str:
    """What a person wants to read at the end of the command: the headline and a line per arm.

    Args:
        plan: of the ablation.
        scores: of all arms.
        comparisons: of all arms but the baseline.
        pairs: of all arms with one another.
    """
    decimals, metric = decimals_for(comparisons), main_metric(comparisons)
    by_arm = {score.arm: score for score in scores if score.metric == metric}
    against = {comparison.arm: comparison for comparison in comparisons}
    rows = []
    for arm in plan.arms:
        score, comparison = by_arm.get(arm.name), against.get(arm.name)
        mean = typeset(score.mean, decimals) if score else "n/a"
        deviation = score.deviation if score else None
        value = mean if deviation is None else f"{mean} ± {typeset(deviation, decimals)}"
        difference = "baseline" if arm is plan.baseline else "n/a"
        if comparison and comparison.differences:
            difference = interval(comparison.differences[0], decimals)
        rows.append((arm.name, value, difference, _in_short(comparison.verdict) if comparison else ""))
    title = f"{title_of(metric)} in points, mean ± SD over seeds:"
    noise = [noise_text(comparisons)] if noise_text(comparisons) else []
    told = [f"{c.arm} minus {c.baseline}: {interval(c.differences[0], decimals)} {c.verdict.kind}" for c in pairs]
    all_pairs = ["All arms with one another, a family of its own:", *told] if told else []
    return "\n".join([headline(plan, scores, comparisons), title, *aligned(rows, left=range(4)), *all_pairs, *noise])


def noise_text(comparisons: Sequence[Comparison]) -> str:
    """What the intervals rest on between seeds, and what was borrowed from where; empty with one seed."""
    noises = [comparison.noise for comparison in comparisons if comparison.noise is not None]
    lent = next((noise for noise in noises if noise.lent is not None), None)
    if lent is None:
        return "Noise between seeds: each arm's own." if noises else ""
    shares = sorted({round(100 * noise.share) for noise in noises if noise.share > 0})
    share = f"{shares[0]} %" if len(shares) == 1 else f"{shares[0]} to {shares[-1]} %"
    apart = (
        f" {100 * lent.apart_share:.0f} % of it is what the arms show one by one: the scores of one seed have little"
    )
    return (
        f"Noise between seeds: {share} of each variance is lent by {listed(lent.lenders)} together (SD of one seed's "
        f"difference {points(lent.lent)} points), the rest is each arm's own."
        f"{f'{apart} in common.' if lent.apart is not None else ''}"
    )


def _in_short(verdict: Verdict) -> str:
    if verdict.more_seeds is None:
        return verdict.kind
    return f"{verdict.kind}: about {verdict.more_seeds} more {'seed' if verdict.more_seeds == 1 else 'seeds'}"


def si(value: float) -> str:
    """A count in thousands, millions or billions: ``5.47 M``."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.{max(0, 2 - math.floor(math.log10(scaled)))}f}{NARROW}{unit}"
    return f"{value:g}"
