"""From the scored runs of every arm under every seed to scores, differences with intervals, and verdicts.

All arms and seeds are scored on the same images, under the same random weightings of them (the Bayesian bootstrap of
Rubin, Annals of Statistics 9, 1981, https://doi.org/10.1214/aos/1176345338), so that what two arms find equally hard
cancels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import isnan, nan
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detfuse.errors import InputError
from detfuse.statistics.dunnett import Family
from detfuse.statistics.intervals import LEVEL, Interval, Variances, equivalence_p, interval, variances_of_images
from detfuse.statistics.noise import Moderated, arm_by_arm, moderated
from detfuse.statistics.records import Comparison, Difference, Score, SeedNoise, Verdict
from detfuse.statistics.verdict import LEARNT, Question, Subject, decide

MAIN = "mAP"
WEIGHTINGS = 100
Runs = Mapping[str, Mapping[int, "ScoredRun"]]
"""Arm -> seed -> what it scored."""


class ScoredRun(Protocol):
    """One run on these images, and under :func:`weightings` of them."""

    @property
    def values(self) -> NDArray[np.float64]:
        """(1 + B, metrics): on all images, then what it might be on others; NaN where undefined."""

    @property
    def fingerprint(self) -> bytes:
        """Equal for equal detections."""


@dataclass(frozen=True)
class Statistics:
    """Scores of every arm and metric, and every arm but the baseline against it.

    Attributes:
        scores: of every arm and metric.
        comparisons: with the baseline.
        pairs: all arms with one another, judged as a family of their own; empty unless asked for.
    """

    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]
    pairs: tuple[Comparison, ...] = ()


def judge(
    runs: Runs,
    metrics: Sequence[str],
    baseline: str,
    *,
    equivalence: float = 0.005,
    missing: Mapping[str, Mapping[int, str]] | None = None,
    subject: Subject = "arms",
    num_images: int | None = None,
    level: float = LEVEL,
    next_level: float | None = None,
    all_pairs: bool = False,
) -> Statistics:
    """Compare every arm with the baseline, paired by seed.

    Args:
        runs: of every arm.
        metrics: names of the values; ``mAP``, which the verdicts are about, is the first.
        baseline: name of the arm that the others are compared with.
        equivalence: a difference of AP (a fraction) that nobody would care about; 0 if any matters.
        missing: arm -> seed -> why this run has no predictions.
        subject: see :class:`detfuse.statistics.verdict.Question`.
        num_images: that were scored; None if they are many.
        level: probability that any verdict of all arms is false; less than 5 % where there are several looks.
        next_level: what is left for the next look; None if that is another experiment.
        all_pairs: compare the arms with one another, too.

    Raises:
        ValueError: if there is no such baseline or no other arm.
    """
    if baseline not in runs:
        raise InputError(f"baseline {baseline!r} is none of the arms: {', '.join(runs)}")
    if len(runs) < 2:
        raise InputError(f"there is nothing to compare {baseline!r} with")
    scores = [
        _score_record(arm, metric, {seed: float(run.values[0, k]) for seed, run in sorted(by_seed.items())})
        for arm, by_seed in runs.items()
        for k, metric in enumerate(metrics)
    ]
    judging = _Judging(metrics, missing or {}, equivalence, subject, num_images, level, next_level or level)
    against = judging.family(runs, [(arm, baseline) for arm in runs if arm != baseline], correlation=0.5)
    pairs = judging.family(runs, [(b, a) for a, b in combinations(runs, 2)], correlation=0.0) if all_pairs else ()
    return Statistics(tuple(scores), against, pairs)


def weightings(num_images: int) -> NDArray[np.float64]:
    """Random weights of the images, of mean 1 and never 0; (B, images), none for a single image.

    Gamma weights of this shape make the variance of a mean that of the textbook, with n - 1.
    """
    if num_images < 2:
        return np.ones((0, num_images))
    shape = max(1 - 2 / num_images, 0.5)
    weights = np.random.default_rng(0).gamma(shape, size=(WEIGHTINGS, num_images))
    return np.asarray(np.maximum(weights / weights.mean(axis=1, keepdims=True), 1e-5), np.float64)


@dataclass(frozen=True)
class _Pair:
    """An arm and what it is compared with, before anything is borrowed.

    Attributes:
        comparison: who, and which seeds.
        a: (S, 1 + B, metrics) of the arm.
        b: of the other.
        same: every detection of every seed is the same.
    """

    comparison: Comparison
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    same: bool

    @property
    def difference(self) -> NDArray[np.float64]:
        """(S, 1 + B, metrics)."""
        return self.a - self.b

    def best(self, main: int) -> float:
        """The higher mean of the two; NaN if there is none."""
        return max(float(side[:, 0, main].mean()) for side in (self.a, self.b)) if len(self.a) else nan

    def identical(self, main: int) -> bool:
        """Equal detections with equal scores; among equal confidences the order of the rows can change AP."""
        return self.same and not self.difference[:, 0, main].any()


@dataclass(frozen=True)
class _Judging:
    metrics: Sequence[str]
    missing: Mapping[str, Mapping[int, str]]
    equivalence: float
    subject: Subject
    num_images: int | None
    level: float
    next_level: float

    def family(self, runs: Runs, pairs: Iterable[tuple[str, str]], correlation: float) -> tuple[Comparison, ...]:
        """Judge pairs of arms, all of them at once: they lend one another their noise and share the level."""
        main = self.metrics.index(MAIN)
        made = [self._pair(arm, other, runs) for arm, other in pairs]
        noise = _moderated(made, lends=[_learnt(pair, main) for pair in made])
        tested = [len(p.a) > 0 and not p.identical(main) and not p.best(main) < LEARNT for p in made]
        family = Family(max(sum(tested), 1), correlation)
        return tuple(self._judged(pair, place, noise, family, tested[place]) for place, pair in enumerate(made))

    def _pair(self, arm: str, other: str, runs: Runs) -> _Pair:
        ours, theirs = runs[arm], runs[other]
        reasons = {name: dict(self.missing.get(name, {})) for name in (arm, other)}
        wanted = sorted({*ours, *theirs, *reasons[arm], *reasons[other]})
        seeds = tuple(seed for seed in wanted if seed in ours and seed in theirs)
        dropped = {
            seed: "; ".join(
                f"{name}: {reasons[name].get(seed, 'no predictions')}"
                for name in (arm, other)
                if seed not in runs[name]
            )
            for seed in wanted
            if seed not in seeds
        }
        record = Comparison(arm, other, seeds, dropped, (), Verdict("missing", ""), None)
        if not seeds:
            nothing = np.empty((0, 1, len(self.metrics)))
            return _Pair(record, nothing, nothing, False)
        a, b = (np.stack([side[seed].values for seed in seeds]) for side in (ours, theirs))
        same = all(ours[seed].fingerprint == theirs[seed].fingerprint for seed in seeds)
        return _Pair(record, a, b, same)

    def _judged(self, pair: _Pair, place: int, noise: _Noise | None, family: Family, tested: bool) -> Comparison:
        record, main = pair.comparison, self.metrics.index(MAIN)
        if not record.seeds:
            nothing = Difference(MAIN, {}, None, None, None, None, None, "no pair of runs")
            why = f"{record.arm} cannot be compared with {record.baseline}: no seed of which both ran."
            return replace(record, differences=(nothing,), verdict=Verdict("missing", why))
        variances = [self._variances(pair, place, k, noise) for k in range(len(self.metrics))]
        entries = [
            _difference(name, record.seeds, pair.difference[:, 0, k], variances[k], pair.a[:, 0, k])
            for k, name in enumerate(self.metrics)
        ]
        defined = entries[main].estimate is not None
        if defined and tested:
            entries[main] = self._corrected(entries[main], variances[main], family)
        elif not tested and not pair.identical(main):
            # What learnt nothing differs by nothing under every seed, which is no certainty.
            entries = [replace(entry, low=None, high=None, p=None) for entry in entries]
        question = Question(record.arm, record.baseline, self.equivalence, self.subject, family, self.next_level)
        return replace(
            record,
            differences=tuple(entries),
            pairing_correlation=_correlation(pair.a[:, 0, main], pair.b[:, 0, main]),
            noise=noise.of(main, place) if noise is not None and len(record.seeds) > 1 and defined else None,
            verdict=self._verdict(pair, entries[main], variances[main], question),
        )

    def _variances(self, pair: _Pair, place: int, metric: int, noise: _Noise | None) -> Variances:
        difference = pair.difference[..., metric]
        num_seeds = len(difference)
        images, both = variances_of_images(difference[:, 0], difference[:, 1:])
        freedom = WEIGHTINGS - 1.0
        if self.num_images is not None and self.num_images > 1:
            freedom = 1 / (1 / freedom + 1 / (self.num_images - 1))
        if num_seeds < 2 or noise is None:
            return Variances(None, images, 0.0, num_seeds, 0.0, freedom)
        seeds, seeds_freedom = noise.variance(metric, place)
        if seeds <= 0 and difference[:, 0].any():  # to the last digit the same under every seed: copies of one run
            return Variances(None, images, 0.0, num_seeds, 0.0, freedom)
        return Variances(seeds / num_seeds, images, both, num_seeds, seeds_freedom, freedom)

    def _corrected(self, difference: Difference, variances: Variances, family: Family) -> Difference:
        """The main metric's: the interval that decides holds for all arms at once."""
        assert difference.estimate is not None
        found = interval(difference.estimate, variances, family=family, level=self.level)
        return replace(
            difference,
            low=found.low,
            high=found.high,
            p_corrected=found.p,
            p_equivalent=equivalence_p(difference.estimate, variances, self.equivalence),
            p_equivalent_corrected=equivalence_p(difference.estimate, variances, self.equivalence, family),
        )

    def _verdict(self, pair: _Pair, main: Difference, variances: Variances, question: Question) -> Verdict:
        arm, baseline = question.arm, question.baseline
        if main.estimate is None:
            return Verdict("missing", f"{arm} cannot be compared with {baseline}: {main.method}.")
        place = self.metrics.index(MAIN)
        if pair.identical(place):
            return Verdict("identical", f"{arm} and {baseline} are identical, detection by detection.")
        if pair.best(place) < LEARNT:
            both = f"neither {arm} nor {baseline} reaches one AP point"
            return Verdict("undecided", f"Undecided: {both}: nothing was learnt that could be compared.")
        verdict = decide(question, main.estimate, Interval(main.low, main.high, main.p), variances, main.method)
        if pair.same:
            order = "The detections are the same, but equal confidences stand in another order, which AP depends on."
            return replace(verdict, text=f"{verdict.text} {order}")
        return verdict


@dataclass(frozen=True)
class _Noise:
    """Between seeds, of every metric and pair; (metrics, pairs) with more than one seed."""

    found: Moderated
    own: NDArray[np.float64]
    column: Mapping[int, int]  # place of a pair -> its column
    lenders: Sequence[Sequence[str]]  # of every metric

    def variance(self, metric: int, place: int) -> tuple[float, float]:
        """Of one seed's difference, with its degrees of freedom."""
        at = metric, self.column[place]
        return float(self.found.variance[at]), float(self.found.freedom[at])

    def of(self, metric: int, place: int) -> SeedNoise:
        """For people."""
        at = metric, self.column[place]
        share = float(self.found.share[at])
        return SeedNoise(
            own=float(self.own[at]) ** 0.5,
            lent=float(self.found.lent[metric]) ** 0.5 if share > 0 else None,
            lenders=tuple(self.lenders[metric]) if share > 0 else (),
            share=share,
            used=float(self.found.variance[at]) ** 0.5,
            freedom=float(self.found.freedom[at]),
            apart=float(self.found.apart[at]) ** 0.5 if self.found.apart_share[at] > 0 else None,
            apart_share=float(self.found.apart_share[at]),
        )


def _moderated(pairs: Sequence[_Pair], lends: Sequence[bool]) -> _Noise | None:
    """What the pairs show of the noise between seeds; None if none has two seeds."""
    several = [place for place, pair in enumerate(pairs) if len(pair.a) > 1]
    if not several:
        return None
    own = np.stack([pairs[place].difference[:, 0].var(axis=0, ddof=1) for place in several], axis=1)
    freedom = np.broadcast_to([len(pairs[place].a) - 1.0 for place in several], own.shape)
    lending = np.broadcast_to([lends[place] for place in several], own.shape) & (own > 0)  # NaN is not
    found = moderated(np.nan_to_num(own), freedom, lending)
    records = [pair.comparison for pair in pairs]
    with_one = len({record.baseline for record in records}) == 1
    if with_one:
        arms = [dict(zip(records[place].seeds, pairs[place].a[:, 0], strict=True)) for place in several]
        bases = [dict(zip(records[place].seeds, pairs[place].b[:, 0], strict=True)) for place in several]
        baseline = {seed: scores for base in bases for seed, scores in base.items()}
        found = arm_by_arm(found, arms, baseline, np.any(lending, axis=0))
    called = [record.arm if with_one else f"{record.arm} - {record.baseline}" for record in records]
    names = [[called[place] for place, lent in zip(several, row, strict=True) if lent] for row in lending]
    return _Noise(found, own, {place: column for column, place in enumerate(several)}, names)


def _learnt(pair: _Pair, main: int) -> bool:
    """Whether both arms found something: what learnt nothing has no noise, and nothing to tell others."""
    return len(pair.a) > 0 and min(float(side[:, 0, main].mean()) for side in (pair.a, pair.b)) >= LEARNT


def _score_record(arm: str, metric: str, per_seed: Mapping[int, float]) -> Score:
    values = [value for value in per_seed.values() if not isnan(value)]
    return Score(
        arm=arm,
        metric=metric,
        per_seed={seed: None if isnan(value) else value for seed, value in per_seed.items()},
        mean=float(np.mean(values)) if values else None,
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )


def _difference(
    metric: str, seeds: Sequence[int], values: NDArray[np.float64], variances: Variances, arm: NDArray[np.float64]
) -> Difference:
    """One metric's difference with an interval of its own; the ground truth decides whether it is defined."""
    if np.isnan(arm).any():
        return Difference(metric, {}, None, None, None, None, None, "undefined: nothing to find")
    estimate = float(values.mean())
    found = interval(estimate, variances)
    return Difference(
        metric=metric,
        per_seed={seed: float(value) for seed, value in zip(seeds, values, strict=True)},
        estimate=estimate,
        low=found.low,
        high=found.high,
        se_seeds=None if variances.seeds is None else variances.seeds**0.5,
        se_images=None if variances.images is None else variances.images**0.5,
        method=_method(variances),
        p=found.p,
    )


def _method(variances: Variances) -> str:
    whole = variances.crossed
    if whole is None:
        seeds = "one seed" if variances.num_seeds < 2 else "the same difference under every seed"
        return f"no interval: {seeds}, and the images do not allow one"
    seeds = f"{variances.num_seeds} seeds (df {variances.seeds_freedom:.1f})"
    if variances.seeds is None:
        return f"t over {WEIGHTINGS} random weightings of the images; seeds are not covered"
    if variances.images is None:
        return f"t over {seeds}; images are not covered"
    return f"two-way t over {seeds} and {WEIGHTINGS} random weightings of the images, df {whole[1]:.1f}"


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    if len(a) < 3 or not (a.std() > 0 and b.std() > 0):  # of undefined scores it is NaN
        return None
    return float(np.corrcoef(a, b)[0, 1])
