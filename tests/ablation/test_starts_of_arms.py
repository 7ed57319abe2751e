"""What the plan says of the arms' starts: their fill, and a norm that could not compute."""

from __future__ import annotations

from pathlib import Path

import pytest
from contracts.composing import compose_train

from detfuse.ablation.design import Ablation, PlanError
from detfuse.ablation.plan.prepared import prepare
from detfuse.ablation.plan.probe import probe


def test_another_fill_is_listed_as_what_the_neck_brings_along() -> None:
    plan = prepare(Ablation(factors={"neck": ["fpn", "pafpn", "bifpn"]}), "x", []).plan
    assert plan.covariates["bifpn"]["neck.fill"] == ("fan_in", "fan_avg")
    assert "neck.fill" not in plan.covariates["pafpn"]
    alike = prepare(Ablation(factors={"neck": ["fpn", "bifpn"]}, common={"neck.fill": "fan_in"}), "x", []).plan
    assert "neck.fill" not in alike.covariates["bifpn"]


def test_the_plan_names_the_arm_whose_norm_has_one_value(tmp_path: Path) -> None:
    data = (f"data.root={tmp_path}", "data.num_train=4", "data.num_val=2", "data.loader.batch_size=1")
    small = ("neck.out_channels=16", "head.num_convs=1", "trainer.accelerator=cpu")
    configs = {
        "fpn": compose_train(*data, *small),
        "bifpn": compose_train(*data, *small, "neck=bifpn", "neck.topology.repeats=1"),
    }
    with pytest.raises(PlanError) as caught:
        probe(configs, startup=None, threads=1, read={})
    (bifpn,) = caught.value.problems
    assert bifpn.startswith("arm bifpn cannot be built: 1 norm has 1 value per statistic")
    assert "neck.norm=group" in bifpn
