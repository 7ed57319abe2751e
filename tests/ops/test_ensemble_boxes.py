"""The combinations against the package of weighted box fusion's authors, by numbers that it made (see the fixtures)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detfuse.ops.postprocess import Nms, SoftNms, WeightedBoxFusion

STORED = json.loads((Path(__file__).parent.parent / "fixtures" / "ensemble_boxes.json").read_text())
CASES = STORED["cases"]
IDS = [f"{case['function']}-{case['arguments']}-{'agnostic' * case['class_agnostic']}" for case in CASES]


def combine_of(case: dict[str, Any]) -> Any:
    given, agnostic = case["arguments"], case["class_agnostic"]
    if case["function"] == "nms":
        return Nms(iou_threshold=given["iou_thr"], class_agnostic=agnostic)
    if case["function"] == "soft_nms":
        rule: dict[str, Any] = {"method": "gaussian", "sigma": given["sigma"]} if given["method"] == 2 else {}
        rule = rule or {"method": "linear", "iou_threshold": given["iou_thr"]}
        return SoftNms(**rule, score_threshold=given["thresh"], class_agnostic=agnostic)
    return WeightedBoxFusion(iou_threshold=given["iou_thr"], score_scaling="members", class_agnostic=agnostic)


def given() -> tuple[Tensor, ...]:
    columns = STORED["candidates"]
    return tuple(torch.tensor(columns[name]) for name in ("boxes", "scores", "labels", "levels"))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_is_combined_is_what_the_authors_package_combines(case: dict[str, Any]) -> None:
    candidates = given()
    found = combine_of(case)(*candidates)
    scores, boxes = found.scores, found.boxes
    if case["function"] == "soft_nms":  # the package tells the boxes that are left with the scores that they had before
        row = {tuple(box): i for i, box in enumerate(candidates[0].tolist())}
        scores = candidates[1][[row[tuple(box)] for box in boxes.tolist()]]
    labels = torch.zeros_like(found.labels) if case["class_agnostic"] else found.labels
    expected = (torch.tensor(case[name]) for name in ("boxes", "scores", "labels"))
    for ours, theirs in zip(by_place(boxes, scores, labels), by_place(*expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def by_place(boxes: Tensor, *columns: Tensor) -> list[Tensor]:
    """Rows in the order of where the boxes lie: of equal scores each side has its own order."""
    order = (boxes @ torch.tensor([1.0, 7.0, 0.1, 0.7])).argsort()
    return [column[order] for column in (boxes, *columns)]


def test_a_cluster_of_several_classes_is_of_its_best_members_class() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    candidates = (boxes, torch.tensor([0.4, 0.8]), torch.tensor([0, 1]), torch.tensor([3, 2]))
    found = WeightedBoxFusion(class_agnostic=True)(*candidates)
    assert (found.labels.tolist(), found.levels.tolist()) == ([1], [2])
    assert found.scores.tolist() == pytest.approx([0.6])
    lowered = SoftNms(class_agnostic=True, score_threshold=0)(*candidates)
    assert lowered.labels.tolist() == [1, 0]
    assert lowered.scores[1].item() < SoftNms(score_threshold=0)(*candidates).scores[1].item() == pytest.approx(0.4)
