"""From an interval to one sentence, and to what it would take to know more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist
from typing import Literal

from detfuse.statistics.dunnett import ALONE, Family
from detfuse.statistics.intervals import LEVEL, Interval, Variances, half_width
from detfuse.statistics.records import Verdict
from detfuse.words import signed, with_ends

Subject = Literal["arms", "models"]
MOST_SEEDS = 1000
POWER = 0.8
LEARNT = 0.01
"""AP below which a detector has found next to nothing, so that its difference from another says nothing."""


@dataclass(frozen=True)
class Question:
    """What is asked of a pair.

    Attributes:
        arm: name of the one.
        baseline: name of the other.
        equivalence: a difference of AP (a fraction) that nobody would care about; 0 if any matters.
        subject: ``arms``: which choice is better, of which the models at hand are samples; ``models``: which of the two
            given models.
        family: of pairs that are judged together.
        next_level: probability that any of them may be judged wrong with more seeds.
    """

    arm: str
    baseline: str
    equivalence: float
    subject: Subject
    family: Family = ALONE
    next_level: float = LEVEL


def decide(question: Question, estimate: float, found: Interval, variances: Variances, method: str = "") -> Verdict:
    """One of better, worse, equivalent, undecided: all of them are read off the interval.

    Equivalent goes first: a difference that is certainly smaller than anybody would care about is no improvement.

    Args:
        question: what is asked.
        estimate: the difference.
        found: the interval that holds for all arms at once.
        variances: what it rests on.
        method: how it was made, for where there is none.
    """
    arm, baseline = question.arm, question.baseline
    if found.low is None or found.high is None:  # a single image, and one seed
        return Verdict("undecided", f"Undecided: {arm} differs from {baseline} by {signed(estimate)}; {method}.")
    shown = "{} AP points (95 % interval {} to {})".format(*with_ends(estimate, found.low, found.high))
    if variances.seeds is None and question.subject == "arms":
        seeds = "one seed says nothing" if variances.num_seeds < 2 else "seeds that are copies of one say nothing"
        return Verdict(
            "undecided",
            f"Undecided: {seeds} about another; this seed's {arm} minus {baseline} is {shown} "
            "over images only. Run 3 seeds or more.",
        )
    scope = "" if variances.seeds is not None else " on images like these; seeds are not covered"
    if -question.equivalence < found.low and found.high < question.equivalence:
        size = f"{100 * question.equivalence:.4g} AP points"
        return Verdict("equivalent", f"{arm} and {baseline} are equivalent within {size}{scope}: {shown}.")
    if not found.low <= 0 <= found.high:
        kind: Literal["better", "worse"] = "better" if estimate > 0 else "worse"
        return Verdict(kind, f"{arm} is {kind} than {baseline}{scope}: {shown}.")
    return _undecided(question, estimate, variances, shown)


def _undecided(question: Question, estimate: float, variances: Variances, shown: str) -> Verdict:
    start = f"Undecided: {question.arm} minus {question.baseline} is {shown}"
    # Decided is whatever comes first: that it differs, or that it differs by less than matters.
    target = max(abs(estimate), question.equivalence - abs(estimate))
    images = variances.images or 0.0
    if variances.seeds is None:
        times = _times_images(images, target)
        return Verdict("undecided", f"{start}; needs {times}; seeds are not covered.")
    per_pair = variances.seeds * variances.num_seeds
    floor = max(images - variances.both, 0.0) if variances.images is not None else 0.0
    needed = seeds_needed(question, abs(estimate), per_pair, floor, variances.num_seeds)
    if needed is not None:
        more = needed - variances.num_seeds
        seeds = "seeds decide" if more > 1 else "seed decides"
        told = f"about {more} more {seeds} it with {100 * POWER:.0f} % probability"
        return Verdict("undecided", f"{start}; {told}, if it stays as large.", more)
    if target > 0 and NormalDist().inv_cdf(1 - LEVEL / 2) * sqrt(floor) >= target:
        return Verdict("undecided", f"{start}; needs more images, not seeds: {_times_images(floor, target)}.")
    return Verdict("undecided", f"{start}; needs more than {MOST_SEEDS:,} seeds.")


def seeds_needed(question: Question, size: float, per_pair: float, images: float, num_seeds: int) -> int | None:
    """Least number of seeds, beyond those at hand, that decide with 80 % probability; None above 1,000.

    Args:
        question: its equivalence, how many are judged together, and the level that is left.
        size: of the difference.
        per_pair: variance between seeds of one pair's difference.
        images: variance that more seeds do not reduce.
        num_seeds: seeds at hand.
    """

    def decides(seeds: int) -> bool:
        width = half_width(per_pair, images, seeds, question.next_level, POWER, family=question.family)
        return width <= max(size, question.equivalence - size)

    return first_that(decides, num_seeds + 1)


def first_that(decides: Callable[[int], bool], start: int) -> int | None:
    """Least number from ``start`` on that is enough, of what stays enough with more; None above 1,000."""
    if not decides(MOST_SEEDS):
        return None
    low, high = start, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle + 1, high)
    return low


def _times_images(variance: float, target: float) -> str:
    if target <= 0:
        return "more images"
    factor = ceil((NormalDist().inv_cdf(1 - LEVEL / 2) * sqrt(variance) / target) ** 2)
    return f"about {max(factor, 2):,} times as many images"
