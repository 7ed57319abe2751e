from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detfuse.ablation.design import Ablation, PlanError
from detfuse.ablation.matching import arms_equalised, arms_with_budget, shared_data
from detfuse.ablation.outline import plan_text
from detfuse.ablation.plan import prepare
from detfuse.ablation.probe import probe, strides_differ

SMALL = ("neck.out_channels=16", "head.num_convs=1", "data.num_train=8", "data.num_val=4", "data.image_size=64")


def prepared(tmp_path: Path, **given: Any) -> Any:
    return prepare(Ablation(**given), "x", [*SMALL, "data.max_size=40", f"data.root={tmp_path}"])


def test_a_budget_changes_the_arms_but_confounds_no_pair(tmp_path: Path) -> None:
    free = prepared(tmp_path, factors={"operator": ["add", "concat"]}, budget="params")
    read: dict[str, Any] = {}
    plan = arms_with_budget(free, shared_data(free, read)).plan
    assert plan.baseline == free.plan.baseline
    width = next(text for text in plan.arms[1].overrides if text.startswith("neck.width="))
    assert "parameters" in plan.arms[1].notes[0]
    assert plan.covariates["concat"]["neck.width"] == ("null", width.partition("=")[2])
    assert len(read) == 1


def test_what_an_arm_brings_along_can_be_equalised(tmp_path: Path) -> None:
    plan = arms_equalised(prepared(tmp_path, factors={"neck": ["fpn", "bifpn"]}, equalise=["norm", "block"])).plan
    assert "neck.norm=none" in plan.arms[1].overrides
    assert plan.arms[1].notes == ("norm and block as fpn has it",)
    assert not [path for path in plan.covariates["bifpn"] if "norm" in path or "block" in path]


def test_arms_that_cannot_be_equalised_are_all_named(tmp_path: Path) -> None:
    given = prepared(tmp_path, factors={"neck": ["fpn", "early", "pafpn"]}, equalise=["levels"])
    with pytest.raises(PlanError) as caught:
        arms_equalised(given)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["arm early"]


def test_every_arm_is_tried_and_timed_before_anything_runs(tmp_path: Path) -> None:
    given = prepared(tmp_path, factors={"neck": ["fpn", "early"]})
    configs = {name: resolved.config for name, resolved in given.resolved.items()}
    facts = probe(configs, startup=5.0, threads=1, read={})
    assert facts["fpn"].strides == (8, 16, 32, 64, 128)
    assert (facts["fpn"].num_images, facts["fpn"].num_classes, facts["fpn"].num_epochs) == (4, 3, 7)
    assert facts["fpn"].seconds is not None
    assert facts["fpn"].seconds > 5
    (problem,) = strides_differ("fpn", facts)
    assert problem.startswith("arm early: its head sees the stride 8, that of fpn the strides 8, 16, 32, 64, 128")
    assert facts["fpn"].compare(facts["early"])["levels"] == ("strides 8, 16, 32, 64, 128", "stride 8")


def test_what_training_feeds_and_what_costs_refer_to_is_told(tmp_path: Path) -> None:
    augmented = {"data.transform.short_side": 64, "data.transform.long_side": None, "data.transform.crop": 1.0}
    given = prepared(tmp_path, factors={"neck": ["fpn", "unfused"]}, common=augmented)
    configs = {name: resolved.config for name, resolved in given.resolved.items()}
    facts = probe(configs, startup=None, threads=1, read={})
    assert facts["fpn"].image_size == (64, 64)
    assert facts["fpn"].fed_size in {(64, 96), (96, 64)}
    plan = replace(given.plan, threads=3)
    told = " ".join(plan_text(plan, facts, folder="x", jobs=2, why_threads="7 cores").split())
    assert "machine 2 runs at a time, 3 threads each (7 cores)" in told
    assert "images up to 64 x 64 pixels at inference, to which FLOPs refer; up to " in told


def test_attention_that_cannot_fit_is_known_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = prepared(tmp_path, factors={"attention@attention.lateral": ["none", "non_local"]})
    configs = {name: resolved.config for name, resolved in given.resolved.items()}
    monkeypatch.setattr("detfuse.ablation.probe.device_memory", lambda device: 2**10)
    with pytest.raises(PlanError) as caught:
        probe(configs, startup=None, threads=1, read={})
    (problem,) = caught.value.problems
    assert problem.startswith("arm non_local cannot be built: attention needs at least")
