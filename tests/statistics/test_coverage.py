"""Of simulated ablations: false verdicts in 5 of 100 at most, intervals that hold the truth in 95, and more power."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest

from detfuse.evaluation.replicates import ReplicateEvaluator
from detfuse.evaluation.scoring import score_runs
from detfuse.statistics.comparison import judge, weightings
from detfuse.statistics.looks import Spent, next_level
from detfuse.statistics.simulation import NOISES, SOURCES, Cell, draw, looked_at, ours, paired_holm, rates

REPETITIONS = 2000
ERROR = (0.05 * 0.95 / REPETITIONS) ** 0.5  # of a rate


@pytest.mark.parametrize("noise", NOISES)
def test_false_verdicts_and_coverage_hold_whatever_the_noise(noise: Any) -> None:
    """A part of the grid of STATISTICS; the baseline or an arm may be three times as noisy as the rest."""
    wrong = {}
    for seeds, arms, images, source in product((2, 3, 5), (3, 6), (100, 5000), SOURCES):
        cell = Cell(seeds, arms, images, noise, 0.5 * (seeds == 3), source)
        found = rates(ours, draw(np.random.default_rng([seeds, arms, images]), cell, REPETITIONS), 0.6, 0.5)
        if found.false > 0.05 + 3 * ERROR or found.coverage < 0.95 - 3 * ERROR or found.false_equivalent > 0.05:
            wrong[cell] = found
    assert wrong == {}


def test_what_the_arms_lend_finds_more() -> None:
    """One of four arms is better by two standard deviations between seeds; alone, three seeds find 1 of 12."""
    for correlation, times in ((0.0, 2.0), (0.5, 2.2)):
        layout = draw(np.random.default_rng(0), Cell(3, 5, 5000, "equal", correlation), REPETITIONS)
        alone, lent = (rates(rule, layout, 2 * SOURCES["seeds"][0], 0.5).power for rule in (paired_holm, ours))
        assert lent > times * alone
    two = draw(np.random.default_rng(0), Cell(3, 2, 5000), REPETITIONS)
    alone, lent = (rates(rule, two, 0.6, 0.5).power for rule in (paired_holm, ours))
    assert alone == lent  # a single pair has nobody to borrow from


@pytest.mark.parametrize("arms", [2, 6])
def test_who_looks_until_it_is_decided_is_wrong_in_five_of_a_hundred_at_most(arms: int) -> None:
    layout = draw(np.random.default_rng(arms), Cell(8, arms, 5000, "equal", 0.5), REPETITIONS)
    assert looked_at(paired_holm, layout, range(3, 9), None)[0] > 0.1
    assert looked_at(ours, layout, range(3, 9), (3,))[0] <= 0.05
    assert looked_at(ours, layout.first(5), (2, 3, 5), (2, 3, 5))[0] <= 0.05


def test_looks_share_the_level() -> None:
    past: list[Spent] = []
    for seeds in (2, 3, 5, 6, 7, 8, 20):
        past.append(next_level(past, (2, 3, 5), seeds))
    assert [look.planned for look in past] == [True, True, True, False, False, False, False]
    assert sum(look.level for look in past[:3]) == pytest.approx(0.045)
    assert past[0].level < past[1].level < past[2].level
    assert past[4].level == past[3].level / 2
    assert sum(look.level for look in past) < 0.05
    early = next_level([], (3,), 2)
    assert not early.planned
    assert next_level([early], (3,), 3).level == pytest.approx(0.045)  # what was planned is kept for it
    skipped = next_level([], (2, 3, 5), 4)
    assert skipped.level == pytest.approx(past[0].level + past[1].level)


def test_one_arm_under_two_names_is_not_told_apart() -> None:
    """Through COCO AP: images of unequal difficulty, seeds of unequal quality, three of them per name."""
    false = 0
    for case in range(25):
        rng = np.random.default_rng([case, 5])
        num_images = 20
        difficulty, truth = rng.normal(0, 0.6, num_images), _objects(rng, num_images)
        runs = {
            name: {seed: partial(list, _detect(rng, truth, difficulty, rng.normal(0, 0.2))) for seed in range(3)}
            for name in ("one", "other")
        }
        evaluator = ReplicateEvaluator(truth)
        scored = score_runs(evaluator, runs, weightings(num_images))
        (comparison,) = judge(scored, evaluator.metrics, "one").comparisons
        false += comparison.verdict.kind in {"better", "worse"}
    assert false <= 3  # of 25; 4 or more have a probability of 3 %


def _objects(rng: np.random.Generator, num_images: int) -> dict[str, Any]:
    image = np.repeat(np.arange(num_images), rng.poisson(3, num_images)).tolist()
    boxes = np.column_stack([rng.uniform(0, 300, (len(image), 2)), np.exp(rng.uniform(3, 5, (len(image), 2)))])
    rows = enumerate(zip(image, boxes.tolist(), strict=True))
    return {
        "images": [{"id": i} for i in range(num_images)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": n, "image_id": i, "category_id": 1, "bbox": box} for n, (i, box) in rows],
    }


def _detect(
    rng: np.random.Generator, truth: dict[str, Any], difficulty: np.ndarray, quality: float
) -> list[dict[str, Any]]:
    """Better seeds and easier images: more objects found, with tighter boxes and higher scores; and strays."""
    rows = []
    for annotation in truth["annotations"]:
        skill = quality - difficulty[annotation["image_id"]] + rng.normal(0, 0.7)
        x, y, w, h = annotation["bbox"]
        dx, dy, dw, dh = rng.normal(0, 0.08 * np.exp(-skill / 2), 4)
        near = [x + dx * w, y + dy * h, w * np.exp(dw), h * np.exp(dh)]
        stray = rng.uniform(10, 250, 4).tolist()
        row = {"image_id": annotation["image_id"], "category_id": 1}
        if rng.random() < 1 / (1 + np.exp(-1 - skill)):
            rows.append(row | {"bbox": near, "score": float(rng.normal(1.5 + skill / 2))})
        rows.append(row | {"bbox": stray, "score": float(rng.normal(-0.3))})
    return rows
