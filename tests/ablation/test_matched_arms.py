from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from detfuse.ablation.design import Ablation, PlanError
from detfuse.ablation.plan.held_equal import (
    arms_equalised,
    arms_with_budget,
    arms_with_scale,
    shared_data,
    stored_scales,
)
from detfuse.ablation.plan.outline import plan_text
from detfuse.ablation.plan.prepared import Prepared, prepare, store
from detfuse.ablation.plan.probe import probe, strides_differ

pytestmark = pytest.mark.usefixtures("composed_once")
SMALL = (
    *("backbone=timm", "backbone.name=test_resnet", "neck.out_channels=16", "head.num_convs=1"),
    *("data.num_train=8", "data.num_val=4", "data.image_size=64"),
)
Planned = Callable[..., Prepared]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data is generated, once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def planned(root: Path) -> Planned:
    return lambda **given: prepare(Ablation(**given), "x", [*SMALL, "data.max_size=40", f"data.root={root}"])


def test_a_budget_changes_the_arms_but_confounds_no_pair(planned: Planned) -> None:
    free = planned(factors={"operator": ["add", "concat"]}, budget="params")
    read: dict[str, Any] = {}
    matched = arms_with_budget(free, shared_data(free, read))
    plan = matched.plan
    assert plan.baseline == free.plan.baseline
    assert any(text.startswith("neck.width=") for text in plan.arms[1].overrides)
    assert "parameters" in plan.arms[1].notes[0]
    assert plan.covariates["concat"] == {}, "what the budget set is no part of the choice"
    assert plan.things == {"concat": ("operator",)}
    assert len(read) == 1
    assert matched.resolved["add"] is free.resolved["add"], "an arm that is as it was is not composed again"
    assert matched.resolved["concat"].config["neck"]["width"] is not None


def test_what_an_arm_brings_along_can_be_equalised(planned: Planned) -> None:
    plan = arms_equalised(planned(factors={"neck": ["fpn", "bifpn"]}, equalise=["norm", "block"])).plan
    assert "neck.norm=none" in plan.arms[1].overrides
    assert plan.arms[1].notes == ("norm and block as fpn has it",)
    assert not [path for path in plan.covariates["bifpn"] if "norm" in path or "block" in path or "width" in path]


def test_arms_that_cannot_be_equalised_are_all_named(planned: Planned) -> None:
    given = planned(factors={"neck": ["fpn", "early", "pafpn"]}, equalise=["levels"])
    with pytest.raises(PlanError) as caught:
        arms_equalised(given)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["arm early"]


def started(given: Prepared, read: dict[str, Any]) -> tuple[Prepared, str]:
    """The plan with the factors, and what a person reads of it."""
    found = arms_with_scale(given, read, {})
    facts = probe({name: one.config for name, one in found.resolved.items()}, startup=None, threads=1, read=read)
    base = facts[found.plan.baseline.name]
    brought = {name: {**pairs, **base.brought_by(facts[name])} for name, pairs in found.plan.covariates.items()}
    text = plan_text(replace(found.plan, covariates=brought), facts, folder="x", jobs=1)
    return found, " ".join(text.split())


def test_the_scale_at_the_start_is_told_and_can_be_equalised(planned: Planned) -> None:
    factors = {"operator": ["add", "mean"]}
    read: dict[str, Any] = {}
    given, told = started(planned(factors=factors), read)
    assert given.plan.arms[1].overrides == ("operator=mean",)
    assert "brings along: scale at the start of P3/P4" in told
    found, told = started(planned(factors=factors, equalise=["scale"]), read)
    assert found.plan.arms[0] == given.plan.arms[0], "the baseline has no factors"
    assert found.plan.arms[1].overrides == ("operator=mean", "neck.scales={t4:2.0,t3:2.0}")
    assert found.resolved["mean"].config["neck"]["scales"] == {"t4": 2.0, "t3": 2.0}
    assert "scale: what its nodes fuse is multiplied to be as large as add's: t4 × 2, t3 × 2" in told
    assert "scale at the start of P3" not in told
    assert not any(found.plan.covariates.values())


def test_stored_factors_stay_whatever_would_be_measured_now(planned: Planned, tmp_path: Path) -> None:
    factors = {"operator": ["add", "gated"]}
    first = arms_with_scale(planned(factors=factors, equalise=["scale"]), {}, {})
    folder = tmp_path / "plan"
    store(folder, first)
    later = planned(factors=factors, equalise=["scale"], seeds=[3, 0])
    known = stored_scales(folder, later)
    assert list(known) == ["gated"]
    again = arms_with_scale(later, {}, known)
    assert again.plan.arms == first.plan.arms
    assert store(folder, again) == "seeds added: 3; seeds left out: 1, 2"
    other = prepare(Ablation(factors=factors, equalise=["scale"]), "x", [*SMALL, "optimizer.lr=0.5"])
    assert stored_scales(folder, other) == {}
    assert stored_scales(tmp_path / "none", later) == {}


def test_an_arm_that_cannot_be_scaled_is_named(planned: Planned) -> None:
    given = planned(arms={"fpn": {}, "open": {"neck.topology": None}}, equalise=["scale"])
    with pytest.raises(PlanError, match="arm open cannot be built: a graph neck needs a topology"):
        arms_with_scale(given, {}, {})


def test_every_arm_is_tried_and_timed_before_anything_runs(planned: Planned) -> None:
    given = planned(factors={"neck": ["fpn", "early"]})
    configs = {name: resolved.config for name, resolved in given.resolved.items()}
    facts = probe(configs, startup=5.0, threads=1, read={})
    assert facts["fpn"].strides == (8, 16, 32, 64, 128)
    assert (facts["fpn"].num_images, facts["fpn"].num_classes, facts["fpn"].num_epochs) == (4, 3, 7)
    assert facts["fpn"].seconds is not None
    assert facts["fpn"].seconds > 5
    (problem,) = strides_differ("fpn", facts)
    assert problem.startswith("arm early: its head sees the stride 8, that of fpn the strides 8, 16, 32, 64, 128")
    brought = facts["fpn"].brought_by(facts["early"])
    assert brought["levels"] == ("strides 8, 16, 32, 64, 128", "stride 8")
    assert brought["blocks"] == ("conv3 at stride 8, 16, 32", "conv3 at stride 8")
    assert [concern.kind for concern in facts["fpn"].concerns] == ["norm", "warmup", "gate"], "seven steps in all"


def test_what_training_feeds_and_what_costs_refer_to_is_told(planned: Planned) -> None:
    augmented = {"data.transform.short_side": 64, "data.transform.long_side": None, "data.transform.crop": 1.0}
    given = planned(factors={"neck": ["fpn", "unfused"]}, common=augmented)
    configs = {name: resolved.config for name, resolved in given.resolved.items()}
    facts = probe(configs, startup=None, threads=1, read={})
    assert facts["fpn"].image_size == (64, 64)
    assert facts["fpn"].fed_size in {(64, 96), (96, 64)}
    plan = replace(given.plan, threads=3)
    told = " ".join(plan_text(plan, facts, folder="x", jobs=2, why_threads="7 cores").split())
    assert "machine 2 runs at a time, 3 threads each (7 cores)" in told
    assert "images up to 64 x 64 pixels at inference, to which FLOPs refer; up to " in told


def test_attention_that_cannot_fit_is_known_before_the_first_run(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = planned(factors={"attention@attention.lateral": ["none", "non_local"]})
    configs = {name: resolved.config for name, resolved in given.resolved.items()}
    monkeypatch.setattr("detfuse.ablation.plan.probe.device_memory", lambda device: 2**10)
    with pytest.raises(PlanError) as caught:
        probe(configs, startup=None, threads=1, read={})
    (problem,) = caught.value.problems
    assert problem.startswith("arm non_local cannot be built: attention needs at least")


def test_arms_whose_backbones_normalise_images_differently_say_so(planned: Planned, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), file)
    given = planned(factors={"backbone.pretrained": [False, str(file)]})
    configs = {name: resolved.config for name, resolved in given.resolved.items()}
    scratch, read = probe(configs, startup=None, threads=1, read={}).values()
    assert scratch.brought_by(read) == {
        "images": ("mean 0.485 0.456 0.406, std 0.229 0.224 0.225", "mean 0.5 0.5 0.5, std 0.5 0.5 0.5")
    }
