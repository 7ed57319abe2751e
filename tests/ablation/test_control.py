from __future__ import annotations

from typing import Any

import pytest

from detfuse.ablation.control import environment_differences
from detfuse.ablation.design import Ablation, PlanError
from detfuse.ablation.plan import prepare


def confounds(**given: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        prepare(Ablation(**given), "x", [])
    return caught.value.problems


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"optimizer.lr": 0.01}, "optimizer.lr"),
        ({"trainer.max_epochs": 9}, "trainer.max_epochs"),
        ({"trainer.precision": "bf16-mixed"}, "trainer.precision"),
        ({"callbacks": "ema"}, "callbacks"),
        ({"data.transform.flip": 0.0}, "data.transform.flip"),
        ({"combine.iou_threshold": 0.5}, "combine.iou_threshold"),
    ],
)
def test_an_arm_that_differs_in_more_than_the_architecture_is_refused_by_name(
    other: dict[str, Any], named: str
) -> None:
    problems = confounds(arms={"fpn": {"neck": "fpn"}, "pafpn": {"neck": "pafpn", **other}})
    (problem,) = problems
    assert "arm pafpn: pafpn and fpn differ in architecture and" in problem
    assert f"(neck, {named})" in problem
    assert "which of them made the difference could not be told" in problem


def test_the_same_differences_are_fine_as_the_only_ones() -> None:
    for setting in ({"optimizer.lr": 0.01}, {"trainer.precision": "bf16-mixed"}, {"data.transform.flip": 0.0}):
        plan = prepare(Ablation(arms={"a": {}, "b": setting}), "x", []).plan
        assert plan.covariates == {"b": {}}


@pytest.mark.parametrize("key", ["data.num_val", "data.data_seed", "evaluation.engine"])
def test_arms_are_scored_on_the_same_images_by_the_same_judge(key: str) -> None:
    value = "pycocotools" if key == "evaluation.engine" else 100
    (problem,) = confounds(arms={"a": {}, "b": {key: value}})
    assert problem.startswith(f"arm b: {key} is ")
    assert problem.endswith("they would be scored on different images, or by different judges")
    assert confounds(factors={key: ["hotcoco", value] if key == "evaluation.engine" else [200, value]})


def test_a_recipe_is_no_factor() -> None:
    problems = confounds(factors={"experiment": ["none", "bccd_fcos_r18"]}, common={"data.root": "x", "data": "coco"})
    assert any("optimizer._target_ is detfuse.training.optim.adamw" in problem for problem in problems)
    assert any("but what is compared is experiment" in problem for problem in problems)


def test_versions_devices_and_threads_are_compared_but_not_the_size_of_the_machine() -> None:
    ours = {"python": "3.11.7", "torch": "2.14.0", "threads": "2", "cpu_count": "2"}
    theirs = {"python": "3.11.7", "torch": "2.15.0", "threads": "2", "cpu_count": "64"}
    assert environment_differences(ours, theirs) == {"torch": ("2.14.0", "2.15.0")}
    assert environment_differences(ours, ours) == {}
