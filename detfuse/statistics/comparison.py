"""From the predictions of every arm under every seed to scores, differences with intervals, and verdicts.

All arms and seeds are scored by exact COCO AP on the same images. The variance over images is a delete-a-group
jackknife with the same groups for every run, so that what two arms find equally hard cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detfuse.errors import InputError
from detfuse.evaluation.metrics import UNDEFINED
from detfuse.evaluation.replicates import ReplicateEvaluator, Replicates
from detfuse.statistics.intervals import Interval, Spread, equivalence_p, interval, spread_of
from detfuse.statistics.records import Comparison, Difference, Score, Verdict
from detfuse.statistics.verdict import Question, Subject, verdict

MAIN = "mAP"
GROUPS = 100  # of images; with fewer images each is a group

Row = Mapping[str, Any]
Predictions = Mapping[str, Mapping[int, Callable[[], Sequence[Row]]]]


@dataclass(frozen=True)
class Results:
    """Statistics of an ablation: scores of every arm and metric, and every arm but the baseline against it."""

    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]


def compare_runs(
    ground_truth: Mapping[str, Any],
    predictions: Predictions,
    baseline: str,
    *,
    equivalence: float = 0.005,
    missing: Mapping[str, Mapping[int, str]] | None = None,
    subject: Subject = "arms",
    named: Callable[[str, int], str] = "{}, seed {}".format,
) -> Results:
    """Score all runs and compare every arm with the baseline, paired by seed.

    Args:
        ground_truth: the validation set in COCO's json form.
        predictions: arm -> seed -> a function that returns COCO result rows; called once, one after another, so that
            no two result files need be in memory at a time.
        baseline: name of the arm that the others are compared with.
        equivalence: a difference of AP (a fraction) that nobody would care about; 0 if any matters.
        missing: arm -> seed -> why this run has no predictions.
        subject: see :class:`detfuse.statistics.verdict.Question`.
        named: what errors call the run of an arm and a seed.

    Raises:
        ValueError: if there is no such baseline or no other arm, or ground truth or predictions cannot be evaluated;
            the message names arm, seed and record.
    """
    if baseline not in predictions:
        raise InputError(f"baseline {baseline!r} is none of the arms: {', '.join(predictions)}")
    if len(predictions) < 2:
        raise InputError(f"there is nothing to compare {baseline!r} with")
    evaluator = ReplicateEvaluator(ground_truth)
    weights = leave_out(evaluator.num_images)
    matched = _match_all(evaluator, predictions, named)
    runs = {
        arm: {seed: _Run(run.evaluate(weights), run.fingerprint) for seed, run in by_seed.items()}
        for arm, by_seed in matched.items()
    }
    scores = [
        _score_record(arm, metric, {seed: float(run.values[0, k]) for seed, run in sorted(by_seed.items())})
        for arm, by_seed in runs.items()
        for k, metric in enumerate(evaluator.metrics)
    ]
    pairs = [_pair(arm, baseline, runs, missing or {}, evaluator.metrics) for arm in predictions if arm != baseline]
    return Results(tuple(scores), tuple(_conclude(pairs, equivalence, subject)))


def leave_out(num_images: int) -> NDArray[np.float64]:
    """Weights of a delete-a-group jackknife: all images, then all but one group at a time; (1 + G, images)."""
    groups = min(num_images, GROUPS)
    order = np.random.default_rng(0).permutation(num_images)  # images side by side in a file are often alike
    weights = np.ones((1 + groups, num_images))
    weights[1 + order % groups, np.arange(num_images)] = 0
    return weights


class _Run(NamedTuple):
    """One run's metrics: (1 + G, metrics), all images first; and what tells its detections from others."""

    values: NDArray[np.float64]
    fingerprint: bytes


@dataclass(frozen=True)
class _Pair:
    """An arm and the baseline before the verdict, which needs the p values of all arms."""

    comparison: Comparison
    spread: Spread | None
    identical: bool

    @property
    def main(self) -> Difference:
        return self.comparison.differences[0]

    def p_equivalent(self, equivalence: float) -> float | None:
        if self.spread is None or self.main.estimate is None:
            return None
        return equivalence_p(self.main.estimate, self.spread, equivalence)


def _match_all(
    evaluator: ReplicateEvaluator, predictions: Predictions, named: Callable[[str, int], str]
) -> dict[str, dict[int, Replicates]]:
    """Every run matched with the ground truth; what is wrong with any of them is told together."""
    matched: dict[str, dict[int, Replicates]] = {arm: {} for arm in predictions}
    problems = []
    for arm, by_seed in predictions.items():
        for seed, read in by_seed.items():
            try:
                matched[arm][seed] = evaluator.match(read())
            except InputError as error:
                problems.append(f"{named(arm, seed)}: {error}")
    if problems:
        raise InputError("\n".join(problems))
    return matched


def _score_record(arm: str, metric: str, per_seed: Mapping[int, float]) -> Score:
    values = [value for value in per_seed.values() if value != UNDEFINED]
    return Score(
        arm=arm,
        metric=metric,
        per_seed={seed: value if value != UNDEFINED else None for seed, value in per_seed.items()},
        mean=float(np.mean(values)) if values else None,
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )


def _pair(
    arm: str,
    baseline: str,
    runs: Mapping[str, Mapping[int, _Run]],
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
        return _Pair(replace(record, differences=(nothing,)), None, False)
    a, b = (np.stack([side[seed].values for seed in seeds]) for side in (ours, theirs))
    entries = [_difference(metric, seeds, a[..., k], b[..., k]) for k, metric in enumerate(metrics)]
    identical = all(ours[seed].fingerprint == theirs[seed].fingerprint for seed in seeds)
    main = metrics.index(MAIN)
    correlation = _correlation(a[:, 0, main], b[:, 0, main])
    differences = tuple(difference for difference, _ in entries)
    return _Pair(replace(record, differences=differences, pairing_correlation=correlation), entries[main][1], identical)


def _difference(
    metric: str, seeds: Sequence[int], a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[Difference, Spread | None]:
    """(S, 1 + G) of both arms -> one metric's difference; the ground truth decides whether it is defined."""
    if (a[:, 0] == UNDEFINED).any():
        return Difference(metric, {}, None, None, None, None, None, "undefined: nothing to find"), None
    difference = a - b
    defined = not ((a == UNDEFINED) | (b == UNDEFINED)).any()
    spread = spread_of(difference[:, 0], difference[:, 1:] if defined else None)
    estimate = float(difference[:, 0].mean())
    found: Interval = interval(estimate, spread)
    return (
        Difference(
            metric=metric,
            per_seed={seed: float(value) for seed, value in zip(seeds, difference[:, 0], strict=True)},
            estimate=estimate,
            low=found.low,
            high=found.high,
            se_seeds=None if spread.seeds is None else spread.seeds**0.5,
            se_images=None if spread.images is None else spread.images**0.5,
            method=found.method,
            p=found.p,
        ),
        spread,
    )


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _conclude(pairs: Sequence[_Pair], equivalence: float, subject: Subject) -> list[Comparison]:
    """Correct the main metric's p values over the arms and judge each pair.

    That arms differ and that they are equivalent are two families, each corrected by Holm over the same arms.
    """
    tested = [number for number, pair in enumerate(pairs) if pair.main.p is not None and not pair.identical]
    p_equivalent = [pair.p_equivalent(equivalence) for pair in pairs]
    differ = _corrected({number: pairs[number].main.p for number in tested})
    equal = _corrected({number: p_equivalent[number] for number in tested})
    concluded = []
    for number, pair in enumerate(pairs):
        comparison = pair.comparison
        main = replace(
            pair.main,
            p_holm=differ.get(number),
            p_equivalent=p_equivalent[number],
            p_equivalent_holm=equal.get(number),
        )
        question = Question(comparison.arm, comparison.baseline, equivalence, max(len(tested), 1), subject)
        concluded.append(
            replace(
                comparison,
                differences=(main, *comparison.differences[1:]),
                verdict=_judge(pair, main, question),
            )
        )
    return concluded


def _corrected(p: Mapping[int, float | None]) -> dict[int, float]:
    given = {number: value for number, value in p.items() if value is not None}
    return dict(zip(given, holm(list(given.values())), strict=True))


def _judge(pair: _Pair, main: Difference, question: Question) -> Verdict:
    if pair.spread is None or main.estimate is None:
        why = "no seed of which both ran" if not pair.comparison.seeds else main.method
        return Verdict("missing", f"{question.arm} cannot be compared with {question.baseline}: {why}.")
    if pair.identical:
        return Verdict("identical", f"{question.arm} and {question.baseline} are identical, detection by detection.")
    found = Interval(main.low, main.high, main.p, main.method)
    return verdict(question, main.estimate, found, pair.spread, main.p_holm, main.p_equivalent_holm)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979); in the order given."""
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p, np.float64)[order] * factors), 1)
    return [float(value) for value in corrected]
