"""Many runs scored on the same images: what their comparison rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detfuse.annotations import Results
from detfuse.errors import InputError
from detfuse.evaluation.metrics import UNDEFINED
from detfuse.evaluation.replicates import ReplicateEvaluator, Replicates
from detfuse.evaluation.rows import Row

Predictions = Mapping[str, Mapping[int, Callable[[], Results | Sequence[Row]]]]
"""Arm -> seed -> a function that returns its results, as :class:`ReplicateEvaluator` takes them; called once, one after
another."""


class Scored(NamedTuple):
    """One run's metrics on these images and what they might be on others, and what tells its detections from others.

    Attributes:
        values: (1 + B, metrics) 0..1; NaN where undefined.
        fingerprint: equal for equal detections, whatever their order in the file.
    """

    values: NDArray[np.float64]
    fingerprint: bytes


def score_runs(
    evaluator: ReplicateEvaluator,
    predictions: Predictions,
    weights: NDArray[np.float64],
    *,
    named: Callable[[str, int], str] = "{}, seed {}".format,
) -> dict[str, dict[int, Scored]]:
    """Match every run with the ground truth, then score all of them.

    Args:
        evaluator: of the ground truth.
        predictions: of all runs.
        weights: (B, images) random ones, see :meth:`Replicates.resampled`.
        named: what errors call the run of an arm and a seed.

    Raises:
        ValueError: if predictions cannot be evaluated; what is wrong with any run is told together, before the first is
            scored.
    """
    matched: dict[str, dict[int, Replicates]] = {arm: {} for arm in predictions}
    problems = []
    for arm, by_seed in predictions.items():
        for seed, read in by_seed.items():
            try:
                results = read()
            except InputError as error:
                problems.append(str(error))  # it names the file
                continue
            try:
                matched[arm][seed] = evaluator.match(results)
            except InputError as error:
                problems.append(f"{named(arm, seed)}: {error}")
    if problems:
        raise InputError("\n".join(problems))
    return {arm: {seed: _scored(run, weights) for seed, run in by_seed.items()} for arm, by_seed in matched.items()}


def _scored(run: Replicates, weights: NDArray[np.float64]) -> Scored:
    values = np.concatenate([run.evaluate(np.ones((1, run.num_images))), run.resampled(weights)])
    return Scored(np.where(values == UNDEFINED, np.nan, values), run.fingerprint)
