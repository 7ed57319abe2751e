from __future__ import annotations

from typing import Any

import pytest

from detfuse.ablation.design import Ablation, PlanError
from detfuse.ablation.plan.control import environment_differences
from detfuse.ablation.plan.prepared import prepare


def confounds(**given: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        prepare(Ablation(**given), "x", [])
    return caught.value.problems


SECOND = {  # key: what the baseline has, what the arm has
    "optimizer.lr": (0.001, 0.002),
    "trainer.max_epochs": (7, 9),
    "trainer.precision": ("32-true", "bf16-mixed"),
    "data.transform.short_side": (128, 64),
    "data.loader.batch_size": (8, 4),
    "combine.iou_threshold": (0.6, 0.5),
    "callbacks": ("default", "ema"),
    "backbone": ("resnet10t", "resnet18"),
    "head": ("fcos", "retinanet"),
    "operator": ("add", "concat"),
    "resample@resample.up": ("nearest", "bilinear"),
    "attention@attention.lateral": ("none", "se"),
    "neck.norm": ("none", "batch"),
}


def test_two_things_at_once_are_refused_however_they_were_written() -> None:
    """Both arms may name the second key, or only one: what it resolves to decides."""
    baselines = {"named": {key: default for key, (default, _) in SECOND.items()}, "silent": {}}
    arms = {f"b{i}": {"neck": "pafpn", key: value} for i, (key, (_, value)) in enumerate(SECOND.items())}
    few = dict(list(arms.items())[::4])  # composing takes half a second per arm
    named = confounds(arms={"a": {"neck": "fpn", **baselines["named"]}, **arms})
    silent = confounds(arms={"a": {"neck": "fpn", **baselines["silent"]}, **few})
    assert len(named) == len(SECOND)
    assert silent == named[::4]
    for i, (key, values), problem in zip(range(len(SECOND)), SECOND.items(), named, strict=True):
        thing = key.partition("@")[2] or key
        what = f"neck (fpn and pafpn) and {thing} ({values[0]} and {values[1]})"
        assert problem.startswith(f"arm b{i}: b{i} and a differ in {what}: ")
        assert all(remedy in problem for remedy in ("in `common`", "design: factorial", "together: true"))


def test_a_key_that_one_arm_names_is_compared_with_what_the_other_has() -> None:
    plan = prepare(Ablation(arms={"a": {"neck": "fpn", "optimizer.lr": 0.001}, "b": {"neck": "pafpn"}}), "x", []).plan
    assert plan.things == {"b": ("neck",)}
    assert plan.arms[1].notes == ()


def test_settings_that_say_what_a_part_is_are_one_thing_with_it() -> None:
    node = {"name": "p3", "level": 3, "inputs": ["c3", "c4", "c5"]}
    arms: dict[str, dict[str, Any]] = {
        "neck": {"neck.topology": None, "neck.nodes": [node], "neck.outputs": ["p3"]},
        "neck ": {"neck": "bifpn", "neck.topology.repeats": 1},
        "attention.stage": {
            "attention@attention.stage": "se",
            "attention.levels.stage": [4],
            "attention.stage.ratio": 8,
        },
        "optimizer": {"optimizer": "sgd", "optimizer.momentum": 0.8},
        "callbacks": {"callbacks": "ema", "callbacks.ema.decay": 0.99},
        "backbone": {"backbone": "timm", "backbone.name": "resnet34"},
    }
    plan = prepare(Ablation(arms={"a": {}, **{f"b{i}": arm for i, arm in enumerate(arms.values())}}), "x", []).plan
    assert [*plan.things.values()] == [(thing.strip(),) for thing in arms]


def test_several_things_declared_one_choice_are_named_together() -> None:
    arms = {"a": {"neck": "fpn"}, "b": {"neck": "pafpn", "head": "retinanet"}}
    plan = prepare(Ablation(arms=arms, together=True), "x", []).plan
    assert plan.things == {"b": ("neck", "head")}
    assert plan.arms[1].notes == ("differs from a in neck and head: the difference belongs to them together",)
    refused = confounds(arms={"a": {}, "b": {"neck": "pafpn", "data.num_val": 100}}, together=True)
    assert "different images" in refused[0], "what is scored on other images is no comparison, whatever is declared"


def test_arms_written_one_by_one_may_be_a_factorial() -> None:
    parts: dict[str, Any] = {"lr": {"optimizer.lr": 0.002}, "pafpn": {"neck": "pafpn"}}
    both = {**parts["lr"], **parts["pafpn"]}
    plan = prepare(Ablation(arms={"fpn": {}, **parts, "both": both}), "x", []).plan
    assert plan.things["both"] == ("optimizer.lr", "neck")
    (problem,) = confounds(arms={"fpn": {}, "lr": parts["lr"], "both": both})
    assert problem.startswith("arm both: ")
    other_rate = {"optimizer.lr": 0.004}
    (problem,) = confounds(arms={"fpn": {}, "lr": other_rate, "pafpn": parts["pafpn"], "both": both})
    assert problem.startswith("arm both: "), "the parts must be of the same levels"


def test_one_factor_at_a_time_is_left_from_the_baseline_only() -> None:
    factors = {"neck": ["fpn", "pafpn"], "optimizer.lr": [0.001, 0.002]}
    assert len(prepare(Ablation(factors=factors), "x", []).plan.arms) == 3
    (problem,) = confounds(factors=factors, baseline="pafpn")
    assert problem.startswith("arm lr-0.002: lr-0.002 and pafpn differ in neck (pafpn and fpn) and optimizer.lr")


def test_the_same_differences_are_fine_as_the_only_ones() -> None:
    for setting in ({"optimizer.lr": 0.01}, {"trainer.precision": "bf16-mixed"}, {"data.transform.flip": 0.0}):
        plan = prepare(Ablation(arms={"a": {}, "b": setting}), "x", []).plan
        assert plan.covariates == {"b": {}}
        assert plan.things == {"b": tuple(setting)}


def test_what_the_runner_says_itself_is_refused_everywhere() -> None:
    remedies = {
        "seed": "seeds=[0,1,2]",
        "project": "project=",
        "name": "name=",
        "runs_dir": "runs_dir=",
        "resume": "goes on where it was stopped",
        "evaluate": "last checkpoint",
        "overwrite": "overwrite=true of the command",
    }
    necks = {"neck": ["fpn", "pafpn"]}
    with pytest.raises(PlanError) as typed:
        prepare(Ablation(factors=necks), "x", [f"{key}=1" for key in remedies])
    found = {
        "factors": confounds(factors={key: [0, 1] for key in remedies}),
        "arm b": confounds(arms={"a": {}, "b": {f"+{key}": 1 for key in remedies}}),
        "common": confounds(factors=necks, common=dict.fromkeys(remedies, 1)),
        "command line": typed.value.problems,
    }
    for where, problems in found.items():
        for (key, remedy), problem in zip(remedies.items(), problems, strict=True):
            assert problem.startswith(f"{where}: ")
            assert f"{key} is what the ablation sets itself: " in problem
            assert remedy in problem


def test_settings_without_a_result_are_said_to_have_none() -> None:
    plan = prepare(Ablation(factors={"data.loader.num_workers": [0, 1]}), "x", []).plan
    assert plan.arms[1].notes == ("nothing of a result depends on data.loader.num_workers: any difference is noise",)
    plan = prepare(Ablation(arms={"a": {}, "b": {"neck": "pafpn", "trainer.detect_anomaly": True}}), "x", []).plan
    assert plan.arms[1].notes == ("nothing of a result depends on trainer.detect_anomaly",)
    assert plan.things == {"b": ("neck",)}, "it is no second thing either"


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
