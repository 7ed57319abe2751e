"""Objects that nobody is asked to find: as COCO's own judge has what it ignores."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detfuse.evaluation import CocoEvaluator, annotations_of
from detfuse.evaluation.errors import error_types
from detfuse.evaluation.replicates import ReplicateEvaluator


class Honouring(COCOeval):  # type: ignore[misc]  # it has no types
    """The judge, but that what a record says of ``ignore`` is not written over by its ``iscrowd``."""

    def _prepare(self) -> None:
        super()._prepare()
        for records in self._gts.values():
            for record in records:
                record["ignore"] = int(record["iscrowd"] or record["nobody"])


def judged(truth: dict[str, Any], predictions: list[dict[str, Any]]) -> list[float]:
    truth = copy.deepcopy(truth)
    for record in truth["annotations"]:
        record["nobody"] = record.pop("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = Honouring(coco, coco.loadRes(predictions), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats.tolist())


def crowded(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects that overlap, a third of them to be ignored, a tenth crowds, and detections around them."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    for image in range(1, 9):
        for _ in range(10):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(10, 120, 2)]
            known = {"image_id": image, "category_id": int(rng.integers(1, 3))}
            flags = {"iscrowd": int(rng.random() < 0.1), "ignore": int(rng.random() < 0.35)}
            area = float(box[2] * box[3])
            annotations.append({"id": len(annotations) + 1, "bbox": box, "area": area, **known, **flags})
            for _ in range(rng.integers(0, 4)):  # more than one for some: an ignored object takes one of them
                near = [float(v) for v in np.abs(box + rng.normal(0, 3, 4))]
                predictions.append({**known, "bbox": near, "score": float(rng.random())})
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    truth = {"images": [{"id": i} for i in range(1, 9)], "categories": categories, "annotations": annotations}
    return truth, predictions


@pytest.mark.parametrize("seed", range(2))
def test_both_engines_and_the_comparison_ignore_as_the_judge_does(seed: int) -> None:
    truth, predictions = crowded(seed)
    expected = judged(truth, predictions)
    for engine in ("hotcoco", "pycocotools"):
        metrics = CocoEvaluator(truth, engine=engine).evaluate(predictions)  # type: ignore[arg-type]
        assert list(metrics.stats.values()) == pytest.approx(expected, rel=0, abs=1e-12)
    replicated = ReplicateEvaluator(truth).match(predictions).evaluate(np.ones((1, 8)))
    assert replicated[0, 0] == pytest.approx(expected[0], rel=0, abs=1e-12)
    unheeded = copy.deepcopy(truth)
    for record in unheeded["annotations"]:
        record["ignore"] = 0
    assert abs(judged(unheeded, predictions)[0] - expected[0]) > 0.01  # it makes a difference here


def test_an_ignored_object_is_no_object() -> None:
    truth, _ = crowded(0)
    annotations = annotations_of(truth)
    flagged = [bool(record["iscrowd"] or record["ignore"]) for record in truth["annotations"]]
    assert annotations.counted.sum() == len(flagged) - sum(flagged)
    metrics = CocoEvaluator(truth).evaluate([])
    assert sum(metrics.num_objects.values()) == annotations.counted.sum()
    found = [
        {"image_id": r["image_id"], "category_id": r["category_id"], "bbox": r["bbox"], "score": 1.0}
        for r in truth["annotations"]
        if not (r["ignore"] or r["iscrowd"])
    ]
    assert CocoEvaluator(truth).evaluate(found).stats["AR100"] == 1
    errors = error_types(truth, found)
    assert errors is not None
    assert errors.count["missed"] == 0


@pytest.mark.parametrize("flag", [2, "1", [1], float("nan")])
def test_what_is_no_flag_is_refused(flag: object) -> None:
    truth, _ = crowded(0)
    truth["annotations"][3]["ignore"] = flag
    with pytest.raises(ValueError, match="annotation 4: ignore must be 0 or 1"):
        annotations_of(truth)
