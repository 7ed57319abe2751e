"""Numbers beside COCO's twelve: more detections, other ranges, a class; and what COCO's limit costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detfuse.evaluation import METRICS, CocoEvaluator, annotations_of
from detfuse.evaluation.ceiling import ceiling

ENGINES = ("hotcoco", "pycocotools")


def dense(*counts: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images with so many objects each, of 10 px and of 40 px in turn, and perfect detections of all."""
    annotations: list[dict[str, Any]] = []
    for image, count in enumerate(counts, start=1):
        for k in range(count):
            side = 10 if k % 2 else 40
            box = [50 * (k % 30), 50 * (k // 30), side, side]
            known = {"image_id": image, "category_id": 1 + (image == 3), "bbox": box}
            annotations.append({**known, "id": len(annotations) + 1, "area": side**2, "iscrowd": 0})
    categories = [{"id": 1, "name": "tree"}, {"id": 2, "name": "house/barn"}]
    images = [{"id": image} for image in range(1, len(counts) + 1)]
    truth = {"images": images, "categories": categories, "annotations": annotations}
    found = [{**record, "score": 1 - record["id"] / 1e4} for record in annotations]
    return truth, found


@pytest.mark.parametrize("engine", ENGINES)
def test_coco_stays_coco_and_own_limits_come_beside(engine: Any) -> None:
    truth, found = dense(250, 3, 5)
    plain = CocoEvaluator(truth, engine=engine).evaluate(found)
    own = CocoEvaluator(truth, engine=engine, max_detections=300, areas={"tiny": (0, 16), "rest": (16, 1e4)})
    metrics = own.evaluate(found)
    assert tuple(plain.stats) == METRICS
    assert {name: metrics.stats[name] for name in METRICS} == plain.stats
    assert plain.stats["mAP"] < 0.75
    assert {name: value for name, value in metrics.stats.items() if name not in METRICS} == {
        "mAP@300": 1.0, "AP50@300": 1.0, "AP75@300": 1.0, "AR300": 1.0,
        "AP_tiny": 1.0, "AR_tiny": 1.0, "AP_rest": 1.0, "AR_rest": 1.0,
    }  # fmt: skip
    for name in ("mAP@300", "AP_tiny"):
        assert name in metrics.table()
    assert metrics.value("AP@300/tree") == 1
    assert metrics.value("AP/house/barn") == 1
    assert metrics.value("AP/tree") == pytest.approx(2 * plain.stats["mAP"] - 1)
    with pytest.raises(ValueError, match=r"AP/barn is no number of this evaluation; there are mAP, .*AP/tree"):
        own.require("AP/barn")
    fewer = CocoEvaluator(truth, engine=engine, max_detections=50).evaluate(found)
    assert fewer.stats["AR50"] < fewer.stats["AR100"] == plain.stats["AR100"]


@pytest.mark.parametrize("counts", [(101,), (574, 3), (150, 150, 90), (99, 250, 120)])
def test_the_ceiling_is_what_perfect_detections_score(counts: tuple[int, ...]) -> None:
    truth, found = dense(*counts)
    score = CocoEvaluator(truth).evaluate(found).stats["mAP"]
    told = CocoEvaluator(truth).ceiling
    assert f"perfect detections score {100 * score:.1f} mAP" in told
    assert f"{max(counts)} of " in told


def test_there_is_no_ceiling_where_detections_suffice() -> None:
    assert CocoEvaluator(dense(100, 100)[0]).ceiling == ""
    truth, _ = dense(150)
    for record in truth["annotations"][100:]:
        record["ignore"] = 1
    assert ceiling(annotations_of(truth), 100) == ""
    assert ceiling(annotations_of(truth | {"annotations": []}), 100) == ""


@pytest.mark.parametrize(
    ("areas", "message"),
    [
        ({"small": (0, 9)}, "small is COCO's name of a range"),
        ({"x": (9, 9)}, "x: 9 is not below 9"),
        ({"a b": (0, 9)}, "'a b' is no name"),
    ],
)
def test_ranges_that_are_none_are_refused(areas: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"evaluation.areas: {message}"):
        CocoEvaluator(dense(1)[0], areas=areas)


def test_the_engines_agree_beyond_coco() -> None:
    rng = np.random.default_rng(0)
    truth, found = dense(130, 40, 20)
    for row in found:
        row["bbox"] = [float(v) for v in np.abs(row["bbox"] + rng.normal(0, 2, 4))]
        row["score"] = float(rng.random())
    scored = [
        CocoEvaluator(truth, engine=engine, max_detections=120, areas={"thin": (5, 12)}).evaluate(found)  # type: ignore[arg-type]
        for engine in ENGINES
    ]
    assert scored[0].stats == scored[1].stats
    assert scored[0].per_class == scored[1].per_class
