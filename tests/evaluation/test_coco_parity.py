"""Both engines against published numbers and against each other."""

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detfuse.evaluation import METRICS, CocoEvaluator

FIXTURES = Path(__file__).parents[1] / "fixtures" / "evaluation"
ENGINES = ("hotcoco", "pycocotools")
MIXED = "fce_ignore.json"  # writes one image's id now as text, now as a number
PUBLISHED = sorted(path.name for path in FIXTURES.glob("*.json"))


def published(name):
    """A published case, its image ids of one kind; where each comes from stands in the file."""
    case = json.loads((FIXTURES / name).read_text())
    if name == MIXED:
        for row in (*case["ground_truth"]["annotations"], *case["predictions"]):
            row["image_id"] = str(row["image_id"])
    return case


def pycocotools_alone(truth, predictions):
    """The 12 numbers as its own summary computes them."""
    truth, predictions = copy.deepcopy(truth), copy.deepcopy(predictions)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(predictions), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def generated(seed, *, num_images=12, num_classes=5, max_objects=12, extra=20, score_steps=None):
    """Ground truth and predictions near it; class 5 has no ground truth, image 3 nothing at all."""
    rng = np.random.default_rng(seed)
    images = [{"id": 7 * i + 2} for i in rng.permutation(num_images)]
    categories = [{"id": 3 * k + 1, "name": f"class {k}"} for k in range(num_classes)]
    annotations, predictions = [], []
    for number, image in enumerate(images):
        if number == 3:
            continue
        for _ in range(rng.integers(0, max_objects + 1)):
            box = [*rng.uniform(0, 200, 2), *rng.uniform(4, 160, 2)]
            category = 3 * int(rng.integers(num_classes - 1)) + 1
            annotations.append(
                {
                    "id": len(annotations),  # from 0, on purpose
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box,
                    "area": float(box[2] * box[3] * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
            for _ in range(rng.integers(0, 3)):
                near = [float(np.float32(abs(v + rng.normal(0, 0.1 * v + 0.5)))) for v in box]
                predictions.append({"image_id": image["id"], "category_id": category, "bbox": near})
        for _ in range(extra):
            box = [float(v) for v in rng.uniform(1, 150, 4)]
            category = 3 * int(rng.integers(num_classes)) + 1
            predictions.append({"image_id": image["id"], "category_id": category, "bbox": box})
    for row in predictions:
        score = rng.random()
        row["score"] = float(np.float32(score if score_steps is None else round(score * score_steps) / score_steps))
    truth = {"images": images, "categories": categories, "annotations": annotations}
    return truth, [predictions[i] for i in rng.permutation(len(predictions))]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_case(name):
    case = published(name)
    truth, predictions = case["ground_truth"], case["predictions"]
    fast, judge = (CocoEvaluator(truth, engine=engine).evaluate(predictions) for engine in ENGINES)
    assert list(judge.stats.values()) == pytest.approx(list(case["expected"].values()), rel=0, abs=1e-12)
    assert (fast.stats, fast.per_class) == (judge.stats, judge.per_class)
    per_class = {str(c["id"]): judge.per_class[c["name"]]["AP"] for c in truth["categories"]}
    if "per_class_AP" in case:
        assert per_class == pytest.approx(case["per_class_AP"], rel=0, abs=1e-12)


def test_ids_of_two_kinds_are_refused():
    """As pycocotools does."""
    case = json.loads((FIXTURES / MIXED).read_text())
    with pytest.raises(ValueError, match=r"2299 is not in the ground truth.*text and as a number"):
        CocoEvaluator(case["ground_truth"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score_steps": 4},
        {"extra": 700, "num_images": 4, "score_steps": 50},
        {"extra": 1, "max_objects": 1},
        {"num_images": 40, "score_steps": 1},
    ],
    ids=["plain", "ties", "over 100 per class", "sparse", "few scores"],
)
@pytest.mark.parametrize("seed", range(3))
def test_engines_agree_to_the_last_bit(seed, options):
    truth, predictions = generated(seed, **options)
    fast, judge = (CocoEvaluator(truth, engine=engine).evaluate(predictions) for engine in ENGINES)
    assert fast.stats == judge.stats
    assert fast.per_class == judge.per_class
    assert fast.per_class["class 4"]["AP"] == -1  # no ground truth
    for annotation in truth["annotations"]:
        annotation["id"] += 1  # pycocotools by itself must not see an id of 0
    assert list(fast.stats.values()) == pycocotools_alone(truth, predictions)


@pytest.mark.parametrize("engine", ENGINES)
def test_order_of_images_among_the_predictions_is_of_no_account(engine):
    truth, predictions = generated(0, score_steps=2)
    evaluator = CocoEvaluator(truth, engine=engine)
    by_image = sorted(predictions, key=lambda row: -row["image_id"])  # stable: the order within an image stays
    assert evaluator.evaluate(by_image).stats == evaluator.evaluate(predictions).stats


def test_metrics_are_the_twelve_of_coco():
    expected = ("mAP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    assert expected == METRICS
