"""Simulated ablations through COCO AP: ``python scripts/benchmark.py generated``.

Detections are drawn, not trained: every arm finds more or fewer of the objects, with tighter or looser boxes and
higher or lower scores, by its own skill, by its seed's luck, by how hard an image is for all and for this arm. All else
is what ``ablate`` does: the evaluator's AP under random weightings, and the judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from detfuse.annotations import Annotations, Results
from detfuse.evaluation.replicates import ReplicateEvaluator
from detfuse.evaluation.scoring import score_runs
from detfuse.statistics.comparison import MAIN, judge, weightings
from detfuse.statistics.records import Comparison
from detfuse.structures import Categories

ARMS, SEEDS, CLASSES = 5, 3, 2
BETTER = 0.35  # skill of the last arm beyond the others'


@dataclass(frozen=True)
class Kind:
    """Standard deviations of skill.

    Attributes:
        seeds: of every arm, between seeds.
        images: of an arm between images, beyond how hard they are for all.
        correlation: of the arms over the seeds.
    """

    seeds: tuple[float, ...] = (0.17,) * ARMS
    images: float = 0.3
    correlation: float = 0.0


KINDS = {
    "equal": Kind(),
    "equal, correlation .5": Kind(correlation=0.5),
    "baseline 3": Kind((0.3, *(0.1,) * (ARMS - 1))),
    "one arm 3": Kind((0.1, 0.3, *(0.1,) * (ARMS - 2))),
    "images dominate": Kind((0.02,) * ARMS, 1.0),
}


def generated(repetitions: int | str = 60, images: int | str = 200) -> None:
    """False verdicts, coverage and power of five arms with three seeds, of which one is better."""
    print(f"{repetitions} ablations of each kind, {images} images, {ARMS} arms, {SEEDS} seeds")
    print("| noise | AP | difference of the better | false verdicts % | coverage of equals % | of it | found % |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, kind in KINDS.items():
        found = [ablation(kind, int(images), seed) for seed in range(int(repetitions))]
        print(f"| {name} | {' | '.join(_told(found))} |", flush=True)


def _told(found: Sequence[tuple[float, Sequence[Comparison]]]) -> list[str]:
    equals = np.array([[_interval(one) for one in comparisons[:-1]] for _, comparisons in found])
    better = np.array([_interval(comparisons[-1]) for _, comparisons in found])
    truth = np.array([comparisons[-1].differences[0].estimate for _, comparisons in found]).mean()
    holds = (equals[..., 0] <= 0) & (equals[..., 1] >= 0)
    return [
        f"{100 * np.mean([score for score, _ in found]):.1f}",
        f"{100 * truth:.1f}",
        f"{100 * (~holds).any(axis=1).mean():.1f}",
        f"{100 * holds.mean():.1f}",
        f"{100 * ((better[:, 0] <= truth) & (truth <= better[:, 1])).mean():.1f}",
        f"{100 * (better[:, 0] > 0).mean():.0f}",
    ]


def _interval(comparison: Comparison) -> tuple[float, float]:
    low, high = comparison.differences[0].low, comparison.differences[0].high
    assert low is not None
    assert high is not None
    return low, high


def ablation(kind: Kind, num_images: int, seed: int) -> tuple[float, Sequence[Comparison]]:
    """The baseline's AP, and what the judge says of all other arms."""
    rng = np.random.default_rng([seed, num_images])
    truth, objects = _objects(rng, num_images)
    hard = rng.normal(0, 0.6, num_images)
    luck = np.sqrt(kind.correlation) * rng.normal(size=SEEDS)
    runs = {}
    for arm, deviation in enumerate(kind.seeds):
        suits = (BETTER if arm == ARMS - 1 else 0.0) - hard + rng.normal(0, kind.images, num_images)
        skill = deviation * (luck + np.sqrt(1 - kind.correlation) * rng.normal(size=SEEDS))
        made = [_detect(rng, truth, objects, suits + of_seed) for of_seed in skill]
        runs[str(arm)] = {number: partial(_given, rows) for number, rows in enumerate(made)}
    scored = score_runs(ReplicateEvaluator(truth), runs, weightings(num_images))
    alone = {
        arm: {s: r._replace(values=r.values[:, :1]) for s, r in by_seed.items()} for arm, by_seed in scored.items()
    }
    found = judge(alone, [MAIN], "0", num_images=num_images)
    return found.scores[0].mean or 0.0, found.comparisons


def _given(rows: Results) -> Results:
    return rows


def _objects(rng: np.random.Generator, num_images: int) -> tuple[Annotations, NDArray[np.int64]]:
    """A ground truth, and the image of each of its objects."""
    counts = rng.poisson(3, num_images)
    total = int(counts.sum())
    boxes = np.column_stack([rng.uniform(0, 300, (total, 2)), np.exp(rng.uniform(3, 5, (total, 2)))])
    nobody = np.zeros(total, bool)
    truth = Annotations(
        ids=tuple(range(num_images)),
        categories=Categories(tuple(range(1, CLASSES + 1)), tuple(f"class {k}" for k in range(CLASSES))),
        offsets=np.concatenate([[0], counts.cumsum()]),
        boxes=boxes,
        labels=rng.integers(CLASSES, size=total),
        crowd=nobody,
        ignore=nobody,
        areas=boxes[:, 2] * boxes[:, 3],
    )
    return truth, np.repeat(np.arange(num_images), counts)


def _detect(
    rng: np.random.Generator, truth: Annotations, images: NDArray[np.int64], suits: NDArray[np.float64]
) -> Results:
    """With more skill more objects are found, with tighter boxes and higher scores; and a stray for every object."""
    skill = suits[images] + rng.normal(0, 0.7, len(images))
    size = truth.boxes[:, 2:]
    off = rng.normal(0, 0.08, (len(images), 4)) * np.exp(-skill / 2)[:, None]
    near = np.column_stack([truth.boxes[:, :2] + off[:, :2] * size, size * np.exp(off[:, 2:])])
    found = rng.random(len(images)) < 1 / (1 + np.exp(-1 - skill))
    stray = np.column_stack([rng.uniform(0, 300, (len(images), 2)), np.exp(rng.uniform(3, 5, (len(images), 2)))])
    return Results(
        ids=truth.ids,
        category_ids=truth.categories.ids,
        images=np.concatenate([images[found], images]),
        labels=np.concatenate([truth.labels[found], rng.integers(CLASSES, size=len(images))]),
        boxes=np.concatenate([near[found], stray]),
        scores=np.concatenate([rng.normal(1.5 + skill[found] / 2), rng.normal(-0.3, size=len(images))]),
    )
