"""Simulated ablations, thousands at a time: how often a verdict is false, what the intervals cover, what is found.

The layout is the judge's own: arms x seeds x images, all crossed, arms of one seed alike or not. AP points; what is
judged is what :mod:`detfuse.statistics.noise`, ``intervals`` and ``dunnett`` compute, on arrays instead of one
ablation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from detfuse.statistics.comparison import WEIGHTINGS
from detfuse.statistics.dunnett import Family, critical_values
from detfuse.statistics.intervals import LEVEL, crossed
from detfuse.statistics.looks import Spent, next_level
from detfuse.statistics.noise import FEWEST_PAIRS, FEWEST_SEEDS, between, correlation, moderated

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Noise = Literal[
    "equal", "1 : 1.5 : 2", "one arm 3", "baseline 3", "every second 3", "all arms 3", "outliers", "one learnt nothing"
]
NOISES: tuple[Noise, ...] = get_args(Noise)
Source = Literal["seeds", "images"]

# Standard deviations of one arm in AP points: between seeds, between images, and of both together for one of each. The
# difference of two arms then varies by .4, 3 and 6, or .35, 9 and 18.
SOURCES: dict[Source, tuple[float, float, float]] = {"seeds": (0.283, 2.12, 4.24), "images": (0.247, 6.36, 12.7)}
OUTLIERS, FALL = 0.1, 5.0  # share of runs that fall, by how many standard deviations


@dataclass(frozen=True)
class Cell:
    """One kind of ablation.

    Attributes:
        seeds: of every arm.
        arms: the baseline included.
        images: that are scored.
        noise: how the arms' standard deviations between seeds compare.
        correlation: of the scores of two arms over the seeds.
        source: what dominates.
    """

    seeds: int
    arms: int
    images: int = 2000
    noise: Noise = "equal"
    correlation: float = 0.0
    source: Source = "seeds"

    @property
    def deviations(self) -> Floats:
        """(arms,) between seeds, in AP points."""
        factors = {
            "1 : 1.5 : 2": [1.0, 1.5, 2.0],
            "one arm 3": [1.0, 3.0] + self.arms * [1.0],
            "baseline 3": [3.0] + self.arms * [1.0],
            "every second 3": [1.0, 3.0],
            "all arms 3": [1.0] + self.arms * [3.0],
            "one learnt nothing": [1.0, 0.0] + self.arms * [1.0],
        }.get(self.noise, [1.0])
        return SOURCES[self.source][0] * np.resize(factors, self.arms)


class SimulatedPairs(NamedTuple):
    """Differences to the baseline of R ablations of K pairs.

    Attributes:
        values: (R, K, S).
        baseline: (R, S) its scores.
        images: (R, K) variance of the mean from the images, as estimated.
        both: (R, K) of the interaction.
        lends: (K,) whether a pair's noise may be lent.
        equal: (K,) whether the arm is the baseline's equal.
        freedom: degrees of freedom of the variances of the images.
    """

    values: Floats
    baseline: Floats
    images: Floats
    both: Floats
    lends: Bools
    equal: Bools
    freedom: float

    def first(self, seeds: int) -> SimulatedPairs:
        """The same with fewer seeds; the variance of the images as if it had been estimated from those."""
        num = self.values.shape[-1]
        alone = self.images - self.both
        both = self.both * num / seeds
        values, baseline = self.values[..., :seeds], self.baseline[:, :seeds]
        return self._replace(values=values, baseline=baseline, images=alone + both, both=both)

    def better_by(self, effect: Floats | float) -> SimulatedPairs:
        """The same where arms are better than the baseline by this; (K,) AP points."""
        return self._replace(values=self.values + np.broadcast_to(effect, self.lends.shape)[:, None])


Rule = Callable[[SimulatedPairs, float], tuple[Floats, Floats]]
"""Ends of the (R, K) intervals that decide, at a level."""


def draw(rng: np.random.Generator, cell: Cell, repetitions: int) -> SimulatedPairs:
    """Simulate ablations in which no arm differs."""
    seeds_effect, images_effect, residual = SOURCES[cell.source]
    shape = (repetitions, cell.arms, cell.seeds)
    common = np.sqrt(cell.correlation) * rng.standard_normal((repetitions, 1, cell.seeds))
    own = np.sqrt(1 - cell.correlation) * rng.standard_normal(shape)
    scores = (common + own) * cell.deviations[:, None]
    if cell.noise == "outliers":
        scores -= FALL * seeds_effect * (rng.random(shape) < OUTLIERS)
    scores += images_effect / cell.images**0.5 * rng.standard_normal((repetitions, cell.arms, 1))
    scores += residual / cell.images**0.5 * rng.standard_normal(shape)
    values = scores[:, 1:] - scores[:, :1]
    pairs = (repetitions, cell.arms - 1)
    freedom = _images_freedom(cell.images)
    both = 2 * residual**2 / cell.images / cell.seeds * rng.chisquare(freedom, pairs) / freedom
    images = 2 * images_effect**2 / cell.images * rng.chisquare(freedom, pairs) / freedom + both
    learnt = np.ones(cell.arms - 1, bool)
    if cell.noise == "one learnt nothing":
        learnt[0] = False
    return SimulatedPairs(values, scores[:, 0], images, both, learnt, learnt, freedom)


def ours(drawn: SimulatedPairs, level: float) -> tuple[Floats, Floats]:
    """The judge's intervals."""
    pairs, seeds = drawn.values.shape[1:]
    own = drawn.values.var(-1, ddof=1)
    alone = np.full(pairs, seeds - 1.0)
    found = moderated(own, alone, drawn.lends)
    if drawn.lends.sum() >= FEWEST_PAIRS and seeds >= FEWEST_SEEDS:
        base = drawn.baseline[:, None]
        arms = drawn.values + base
        alike = correlation(np.concatenate([base, arms[:, drawn.lends]], axis=1))
        noise = base.var(-1, ddof=1)
        found = between(found, arms.var(-1, ddof=1), alone, drawn.lends, noise, seeds - 1.0, alike, seeds)
    part = found.variance / seeds
    total, freedom = crossed(part, found.freedom, drawn.images, drawn.freedom, drawn.both)
    half = np.maximum(
        critical_values(Family(pairs), freedom, level) * np.sqrt(total),
        critical_values(Family(pairs), found.freedom, level) * np.sqrt(part),
    )
    mean = drawn.values.mean(-1)
    return mean - half, mean + half


def paired_holm(drawn: SimulatedPairs, level: float) -> tuple[Floats, Floats]:
    """What was before: every pair by its own variance, and p values corrected by Holm.

    The intervals are those of the step at which Holm decides on an arm, so that they exclude 0 where it rejects.
    """
    pairs, seeds = drawn.values.shape[1:]
    part = drawn.values.var(-1, ddof=1) / seeds
    total, freedom = crossed(part, seeds - 1.0, drawn.images, drawn.freedom, drawn.both)
    mean = drawn.values.mean(-1)
    p = np.maximum(
        2 * stdtr(freedom, -np.abs(mean) / np.sqrt(total)), 2 * stdtr(seeds - 1, -np.abs(mean) / np.sqrt(part))
    )
    order = np.argsort(p, axis=1)
    steps = np.arange(pairs, 0, -1)
    failed = np.maximum.accumulate(np.take_along_axis(p, order, 1) * steps >= level, axis=1)
    # From the first arm on that stays open, all are left at its step.
    first = np.where(failed.any(1), failed.argmax(1), pairs - 1)[:, None]
    at_step = np.where(failed, level / (pairs - first), level / steps)
    levels = np.empty_like(p)
    np.put_along_axis(levels, order, at_step, 1)
    half = np.maximum(
        stdtrit(freedom, 1 - levels / 2) * np.sqrt(total), stdtrit(seeds - 1.0, 1 - levels / 2) * np.sqrt(part)
    )
    return mean - half, mean + half


def _images_freedom(images: int) -> float:
    return 1 / (1 / (WEIGHTINGS - 1) + 1 / (images - 1))


def told_apart(rule: Rule, drawn: SimulatedPairs, level: float = LEVEL) -> Bools:
    """(R, K) whether an arm is called better or worse."""
    low, high = rule(drawn, level)
    return (low > 0) | (high < 0)


class Rates(NamedTuple):
    """What a rule does in one cell, as shares of its ablations.

    Attributes:
        false: any arm that is the baseline's equal is called better or worse.
        coverage: intervals that hold the truth, of the arm where it is least.
        false_equivalent: any arm is called equivalent where all differ by as much as matters.
        power: the one arm that is better, the last, is called so.
    """

    false: float
    coverage: float
    false_equivalent: float
    power: float


def rates(rule: Rule, drawn: SimulatedPairs, difference: float, limit: float, level: float = LEVEL) -> Rates:
    """How a rule does.

    Args:
        rule: that decides.
        drawn: in which no arm differs.
        difference: of the one arm that is to be found, AP points.
        limit: a difference that matters.
        level: of all arms.
    """
    low, high = rule(drawn, level)
    within, equal = (low <= 0) & (high >= 0), drawn.equal
    at_limit = rule(drawn.better_by(limit), level)
    equivalent = (-limit < at_limit[0]) & (at_limit[1] < limit)
    last = np.arange(len(equal)) == len(equal) - 1
    found = rule(drawn.better_by(difference * last), level)[0][:, -1] > 0
    return Rates(
        false=float((~within[:, equal]).any(axis=1).mean()),
        coverage=float(within[:, equal].mean(axis=0).min()),
        false_equivalent=float(equivalent[:, equal].any(axis=1).mean()),
        power=float(found.mean()),
    )


def looked_at(
    rule: Rule, drawn: SimulatedPairs, looks: Sequence[int], planned: Sequence[int] | None
) -> tuple[float, float]:
    """Ablations in which seeds are added until every arm is decided, with a look at each of these numbers of seeds.

    Args:
        rule: that decides.
        drawn: with the most seeds.
        looks: numbers of seeds.
        planned: of them, those that were planned; None spends the whole 5 % at every look.

    Returns:
        Share of ablations in which an arm that is the baseline's equal is called better or worse at any look; and how
        many runs they took, of those that all seeds of all arms would have been.
    """
    num_pairs = drawn.values.shape[1]
    decided = np.zeros((len(drawn.values), num_pairs), bool)
    runs = np.zeros(len(decided))
    past: list[Spent] = []
    before = 0
    for seeds in looks:
        still = ~decided
        runs += (seeds - before) * (still.sum(axis=1) + still.any(axis=1))
        level = LEVEL
        if planned is not None:
            past.append(next_level(past, planned, seeds))
            level = past[-1].level
        decided |= told_apart(rule, drawn.first(seeds), level)
        before = seeds
    false = decided[:, drawn.equal].any(axis=1).mean()
    return float(false), float(runs.mean() / (looks[-1] * (num_pairs + 1)))
