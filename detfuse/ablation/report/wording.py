"""Numbers and verdicts in words. AP is a fraction in the records and points for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detfuse.ablation.records import Plan
from detfuse.ablation.report.headline import headline, main_metric, title_of
from detfuse.statistics.records import Comparison, Difference, Score, Verdict
from detfuse.words import aligned, listed, points, signed, with_ends

NARROW = "\N{NARROW NO-BREAK SPACE}"


def in_points(fraction: float | None) -> float | None:
    """A fraction in points."""
    return None if fraction is None else 100 * fraction


def interval(difference: Difference) -> str:
    """A difference with its interval."""
    if difference.estimate is None:
        return "n/a"
    if difference.low is None or difference.high is None:
        return f"{signed(difference.estimate)} (no interval)"
    return "{} [{}, {}]".format(*with_ends(difference.estimate, difference.low, difference.high))


def spread(score: Score | None) -> str:
    """A mean with its standard deviation over the seeds: ``36.2 ± 1.1``."""
    mean = points(None if score is None else score.mean)
    return mean if score is None or score.deviation is None else f"{mean} ± {points(score.deviation)}"


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
    metric = main_metric(comparisons)
    by_arm = {score.arm: score for score in scores if score.metric == metric}
    against = {comparison.arm: comparison for comparison in comparisons}
    rows = []
    for arm in plan.arms:
        comparison = against.get(arm.name)
        difference = "baseline" if arm is plan.baseline else "n/a"
        if comparison and comparison.differences:
            difference = interval(comparison.differences[0])
        verdict = _in_short(comparison.verdict) if comparison else ""
        rows.append((arm.name, spread(by_arm.get(arm.name)), difference, verdict))
    title = f"{title_of(metric)} in points, mean ± SD over seeds:"
    noise = [noise_text(comparisons)] if noise_text(comparisons) else []
    told = [f"{c.arm} minus {c.baseline}: {interval(c.differences[0])} {c.verdict.kind}" for c in pairs]
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
