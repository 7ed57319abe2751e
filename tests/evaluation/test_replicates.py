"""Average precision under weights of the images, against the engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_coco_parity import PUBLISHED, generated, published

from detfuse.evaluation import CocoEvaluator, CocoMetrics
from detfuse.evaluation.replicates import SUMMARY, ReplicateEvaluator

CASES = {
    "plain": {},
    "ties": {"score_steps": 4},
    "over 100 per class": {"extra": 700, "num_images": 4, "score_steps": 50},
    "sparse": {"extra": 1, "max_objects": 1},
    "many images": {"num_images": 150, "num_classes": 2},
}


def replicated(truth: dict[str, Any], predictions: list[dict[str, Any]], weights: Any) -> list[float]:
    evaluator = ReplicateEvaluator(truth)
    (values,) = evaluator.match(predictions).evaluate(np.array([weights], np.float64))
    return [float(value) for value in values]


def numbers(metrics: CocoMetrics) -> list[float]:
    return [*(metrics.stats[name] for name in SUMMARY), *(values["AP"] for values in metrics.per_class.values())]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_equal_weights_give_the_engines_numbers_to_the_last_bit(seed: int, case: str) -> None:
    truth, predictions = generated(seed, **CASES[case])
    for engine in ("hotcoco", "pycocotools"):
        expected = numbers(CocoEvaluator(truth, engine=engine).evaluate(predictions))
        assert replicated(truth, predictions, np.ones(len(truth["images"]))) == expected
    three_times = replicated(truth, predictions, np.full(len(truth["images"]), 3))
    assert three_times == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_objects_that_overlap_equally_the_later_one_is_taken(first: int) -> None:
    """It decides what is left for the next detection, which fits only one of the two."""
    objects = [[0, 0, 10, 10], [2, 0, 10, 10]]
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": objects[k]} for n, k in enumerate((first, 1 - first), 1)
        ],
    }
    found = [([1, 0, 10, 10], 0.9), ([0, 0, 10, 10], 0.8)]
    rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in found]
    assert replicated(truth, rows, [1]) == numbers(CocoEvaluator(truth, engine="pycocotools").evaluate(rows))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_fixtures_to_the_last_bit(name: str) -> None:
    case = published(name)
    truth, predictions = case["ground_truth"], case["predictions"]
    expected = CocoEvaluator(truth, engine="pycocotools").evaluate(predictions)
    assert replicated(truth, predictions, np.ones(len(truth["images"]))) == numbers(expected)


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_copies_of_the_images(seed: int) -> None:
    """Weights 0, 1, 2: the same numbers as of a data set with the images left out and there twice."""
    truth, predictions = generated(seed, num_images=30)
    ids = sorted(image["id"] for image in truth["images"])
    weights = np.random.default_rng(seed).integers(0, 3, len(ids))
    copies = {i: [10 * i + n for n in range(weight)] for i, weight in zip(ids, weights.tolist(), strict=True)}
    expanded = truth | {
        "images": [{"id": copy} for ids in copies.values() for copy in ids],
        "annotations": [
            annotation | {"id": f"{annotation['id']}-{copy}", "image_id": copy}
            for annotation in truth["annotations"]
            for copy in copies[annotation["image_id"]]
        ],
    }
    rows = [row | {"image_id": copy} for row in predictions for copy in copies[row["image_id"]]]
    assert replicated(truth, predictions, weights) == numbers(CocoEvaluator(expanded).evaluate(rows))


def test_a_replicate_does_not_depend_on_its_batch() -> None:
    truth, predictions = generated(1)
    evaluator = ReplicateEvaluator(truth)
    matched = evaluator.match(predictions)
    weights = np.random.default_rng(0).exponential(size=(70, evaluator.num_images))
    together = matched.evaluate(weights)
    assert together.shape == (70, len(evaluator.metrics))
    assert np.array_equal(np.concatenate([matched.evaluate(row[None]) for row in weights]), together)
    assert matched.evaluate(weights[:0]).shape == (0, len(evaluator.metrics))


def test_all_found_reaches_full_recall_under_any_weights() -> None:
    """Sums of fractions in another order must not miss the last recall by a rounding error."""
    truth, _ = generated(0, num_images=60)
    rows = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in truth["annotations"]
        if not a["iscrowd"]
    ]
    evaluator = ReplicateEvaluator(truth)
    weights = np.random.default_rng(0).exponential(size=(50, evaluator.num_images))
    values = evaluator.match(rows).evaluate(weights)
    assert values[values >= 0].min() == pytest.approx(1, rel=0, abs=1e-9)


def test_a_class_without_weight_stays_in_the_mean() -> None:
    """Two classes, each in an image of its own: leaving one out must not change which classes are averaged."""
    truth = {
        "images": [{"id": 0}, {"id": 1}],
        "categories": [{"id": 0, "name": "found"}, {"id": 1, "name": "missed"}, {"id": 2, "name": "absent"}],
        "annotations": [{"id": k, "image_id": k, "category_id": k, "bbox": [0, 0, 50, 50]} for k in (0, 1)],
    }
    evaluator = ReplicateEvaluator(truth)
    matched = evaluator.match([{"image_id": 0, "category_id": 0, "bbox": [0, 0, 50, 50], "score": 0.5}])
    values = dict(zip(evaluator.metrics, matched.evaluate(np.array([[1.0, 1], [1, 0], [0, 1]])).T, strict=True))
    assert values["mAP"] == pytest.approx([0.5, 0.5, 0.5])
    assert values["mAP/found"] == pytest.approx([1, 1, -1])
    assert values["mAP/missed"] == pytest.approx([0, -1, 0])
    assert values["mAP/absent"].tolist() == values["APl"].tolist() == [-1, -1, -1]


def test_a_fingerprint_tells_detections_apart_but_not_their_order() -> None:
    truth, predictions = generated(2)
    evaluator = ReplicateEvaluator(truth)
    first = evaluator.match(predictions).fingerprint
    assert evaluator.match(predictions[::-1]).fingerprint == first
    moved = [predictions[0] | {"score": predictions[0]["score"] / 2}, *predictions[1:]]
    assert evaluator.match(moved).fingerprint != first


def test_no_predictions_and_no_objects() -> None:
    truth, predictions = generated(0)
    count = len(truth["images"])
    assert replicated(truth, [], np.ones(count)) == numbers(CocoEvaluator(truth).evaluate([]))
    assert set(replicated(truth | {"annotations": []}, predictions, np.ones(count))) == {-1.0}


@pytest.mark.parametrize(
    ("weights", "says"),
    [(np.ones(12), "expected"), (np.ones((1, 3)), "12 images"), (-np.ones((1, 12)), "at least 0")],
)
def test_wrong_weights_are_refused(weights: Any, says: str) -> None:
    truth, predictions = generated(0)
    with pytest.raises(ValueError, match=says):
        ReplicateEvaluator(truth).match(predictions).evaluate(weights)
