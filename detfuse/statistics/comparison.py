"""From the scored runs of every arm under every seed to scores, differences with intervals, and verdicts.

All arms and seeds are scored on the same images. The variance over images is a delete-a-group jackknife with the same
groups for every run, so that what two arms find equally hard cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detfuse.errors import InputError
from detfuse.statistics.intervals import Interval, Variances, equivalence_p, interval, variances_of
from detfuse.statistics.records import Comparison, Difference, Score, Verdict
from detfuse.statistics.verdict import LEARNT, Question, Subject, decide

MAIN = "mAP"
GROUPS = 100  # of images; with fewer images each is a group


class ScoredRun(Protocol):
    """One run under the weights of :func:`leave_out`."""

    @property
    def values(self) -> NDArray[np.float64]:
        """(1 + G, metrics): on all images, then without each group of them; NaN where undefined."""

    @property
    def fingerprint(self) -> bytes:
        """Equal for equal detections."""


@dataclass(frozen=True)
class Statistics:
    """Scores of every arm and metric, and every arm but the baseline against it."""

    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]


def judge(
    runs: Mapping[str, Mapping[int, ScoredRun]],
    metrics: Sequence[str],
    baseline: str,
    *,
    equivalence: float = 0.005,
    missing: Mapping[str, Mapping[int, str]] | None = None,
    subject: Subject = "arms",
) -> Statistics:
    """Compare every arm with the baseline, paired by seed.

    Args:
        runs: arm -> seed -> what it scored.
        metrics: names of the values; ``mAP``, which the verdicts are about, is the first.
        baseline: name of the arm that the others are compared with.
        equivalence: a difference of AP (a fraction) that nobody would care about; 0 if any matters.
        missing: arm -> seed -> why this run has no predictions.
        subject: see :class:`detfuse.statistics.verdict.Question`.

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
    pairs = [_pair(arm, baseline, runs, missing or {}, metrics) for arm in runs if arm != baseline]
    return Statistics(tuple(scores), tuple(_decided(pairs, equivalence, subject)))


def leave_out(num_images: int) -> NDArray[np.float64]:
    """Weights of a delete-a-group jackknife: all images, then all but one group at a time; (1 + G, images)."""
    groups = min(num_images, GROUPS)
    order = np.random.default_rng(0).permutation(num_images)  # images side by side in a file are often alike
    weights = np.ones((1 + groups, num_images))
    weights[1 + order % groups, np.arange(num_images)] = 0
    return weights


@dataclass(frozen=True)
class _Pair:
    """An arm and the baseline before the verdict, which needs the p values of all arms."""

    comparison: Comparison
    variances: Variances | None
    identical: bool
    best: float  # the higher mean of the two; NaN if there is none

    @property
    def main(self) -> Difference:
        return self.comparison.differences[0]

    def p_equivalent(self, equivalence: float) -> float | None:
        if self.variances is None or self.main.estimate is None:
            return None
        return equivalence_p(self.main.estimate, self.variances, equivalence)


def _score_record(arm: str, metric: str, per_seed: Mapping[int, float]) -> Score:
    values = [value for value in per_seed.values() if not isnan(value)]
    return Score(
        arm=arm,
        metric=metric,
        per_seed={seed: None if isnan(value) else value for seed, value in per_seed.items()},
        mean=float(np.mean(values)) if values else None,
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )


def _pair(
    arm: str,
    baseline: str,
    runs: Mapping[str, Mapping[int, ScoredRun]],
    missing: Mapping[str, Mapping[int, str]],
    metrics: Sequence[str],
) -> _Pair:
    ours, theirs = runs[arm], runs[baseline]
    reasons = {name: dict(missing.get(name, {})) for name in (arm, baseline)}
    wanted = sorted({*ours, *theirs, *reasons[arm], *reasons[baseline]})
    seeds = tuple(seed for seed in wanted if seed in ours and seed in theirs)
    dropped = {
        seed: "; ".join(
            f"{name}: {reasons[name].get(seed, 'no predictions')}" for name in (arm, baseline) if seed not in runs[name]
        )
        for seed in wanted
        if seed not in seeds
    }
    record = Comparison(arm, baseline, seeds, dropped, (), Verdict("missing", ""), None)
    if not seeds:
        nothing = Difference(MAIN, {}, None, None, None, None, None, "no pair of runs")
        return _Pair(replace(record, differences=(nothing,)), None, False, nan)
    a, b = (np.stack([side[seed].values for seed in seeds]) for side in (ours, theirs))
    entries = [_difference(metric, seeds, a[..., k], b[..., k]) for k, metric in enumerate(metrics)]
    identical = all(ours[seed].fingerprint == theirs[seed].fingerprint for seed in seeds)
    main = metrics.index(MAIN)
    correlation = _correlation(a[:, 0, main], b[:, 0, main])
    differences = tuple(difference for difference, _ in entries)
    best = max(float(side[:, 0, main].mean()) for side in (a, b))
    record = replace(record, differences=differences, pairing_correlation=correlation)
    return _Pair(record, entries[main][1], identical, best)


def _difference(
    metric: str, seeds: Sequence[int], a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[Difference, Variances | None]:
    """(S, 1 + G) of both arms -> one metric's difference; the ground truth decides whether it is defined."""
    if np.isnan(a[:, 0]).any():
        return Difference(metric, {}, None, None, None, None, None, "undefined: nothing to find"), None
    difference = a - b
    variances = variances_of(difference[:, 0], None if np.isnan(difference).any() else difference[:, 1:])
    estimate = float(difference[:, 0].mean())
    found: Interval = interval(estimate, variances)
    return (
        Difference(
            metric=metric,
            per_seed={seed: float(value) for seed, value in zip(seeds, difference[:, 0], strict=True)},
            estimate=estimate,
            low=found.low,
            high=found.high,
            se_seeds=None if variances.seeds is None else variances.seeds**0.5,
            se_images=None if variances.images is None else variances.images**0.5,
            method=found.method,
            p=found.p,
        ),
        variances,
    )


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    if len(a) < 3 or not (a.std() > 0 and b.std() > 0):  # of undefined scores it is NaN
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _decided(pairs: Sequence[_Pair], equivalence: float, subject: Subject) -> list[Comparison]:
    """Correct the main metric's p values over the arms and judge each pair.

    That arms differ and that they are equivalent are two families, each corrected by Holm over the same arms.
    """
    tested = [number for number, pair in enumerate(pairs) if pair.main.p is not None and not pair.identical]
    p_equivalent = [pair.p_equivalent(equivalence) for pair in pairs]
    differ = _corrected({number: pairs[number].main.p for number in tested})
    equal = _corrected({number: p_equivalent[number] for number in tested})
    decided = []
    for number, pair in enumerate(pairs):
        comparison = pair.comparison
        main = replace(
            pair.main,
            p_holm=differ.get(number),
            p_equivalent=p_equivalent[number],
            p_equivalent_holm=equal.get(number),
        )
        question = Question(comparison.arm, comparison.baseline, equivalence, max(len(tested), 1), subject)
        decided.append(
            replace(
                comparison,
                differences=(main, *comparison.differences[1:]),
                verdict=_verdict(pair, main, question),
            )
        )
    return decided


def _corrected(p: Mapping[int, float | None]) -> dict[int, float]:
    given = {number: value for number, value in p.items() if value is not None}
    return dict(zip(given, holm(list(given.values())), strict=True))


def _verdict(pair: _Pair, main: Difference, question: Question) -> Verdict:
    if pair.variances is None or main.estimate is None:
        why = "no seed of which both ran" if not pair.comparison.seeds else main.method
        return Verdict("missing", f"{question.arm} cannot be compared with {question.baseline}: {why}.")
    if pair.identical:
        return Verdict("identical", f"{question.arm} and {question.baseline} are identical, detection by detection.")
    if pair.best < LEARNT:
        both = f"neither {question.arm} nor {question.baseline} reaches one AP point"
        return Verdict("undecided", f"Undecided: {both}: nothing was learnt that could be compared.")
    found = Interval(main.low, main.high, main.p, main.method)
    return decide(question, main.estimate, found, pair.variances, main.p_holm, main.p_equivalent_holm)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979); in the order given."""
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p, np.float64)[order] * factors), 1)
    return [float(value) for value in corrected]
