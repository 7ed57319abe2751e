from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from detfuse.ablation.design import Ablation, PlanError, arms_of, override
from detfuse.ablation.plan.prepared import prepare, store
from detfuse.ablation.run.jobs import jobs_of
from detfuse.ablation.storage import read_plan
from detfuse.config import TrainSettings, check, conf_dir
from detfuse.config.resolve import resolve
from detfuse.errors import InputError

pytestmark = pytest.mark.usefixtures("composed_once")
PAGES = sorted(file.stem for file in (conf_dir() / "ablation").glob("*.yaml"))


def page(name: str) -> Ablation:
    content = yaml.safe_load((conf_dir() / "ablation" / f"{name}.yaml").read_text())
    assert content.pop("_target_") == "detfuse.ablation.design.Ablation"
    return Ablation(**content)


def names(**given: Any) -> list[str]:
    return [arm.name for arm in arms_of(Ablation(**given))]


def refused(typed: tuple[str, ...] = (), **given: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        prepare(Ablation(**given), "x", typed)
    return caught.value.problems


def test_the_first_level_of_a_factor_is_the_baselines() -> None:
    assert names(factors={"neck": ["fpn", "pafpn", "bifpn"]}) == ["fpn", "pafpn", "bifpn"]
    assert names(factors={"neck": ["fpn", "pafpn", "bifpn"]}, baseline="bifpn") == ["bifpn", "fpn", "pafpn"]
    assert names(factors={"optimizer.lr": [0.001, 0.002]}) == ["0.001", "0.002"]


def test_arms_whose_names_read_as_other_things_can_be_trained(tmp_path: Path) -> None:
    """A number alone names an arm; the folder of its runs is a text for all that."""
    for key, levels in (("optimizer.lr", [0.001, 0.002]), ("neck.width", [None, 32])):
        for job in jobs_of(prepare(Ablation(factors={key: levels}, seeds=[0]), "x", []), tmp_path):
            argv = list(job.command[4:])
            assert check(argv, TrainSettings) == [], argv
            assert resolve(argv, TrainSettings).config["project"] == job.arm


def test_one_factor_at_a_time_or_every_combination() -> None:
    factors = {"neck": ["fpn", "pafpn"], "optimizer.lr": [0.001, 0.002, 0.004]}
    assert names(factors=factors) == ["baseline", "pafpn", "lr-0.002", "lr-0.004"]
    every = arms_of(Ablation(factors=factors, design="factorial"))
    assert len(every) == 6
    assert every[0].name == "fpn_lr-0.001"
    assert every[5].overrides == ("neck=pafpn", "optimizer.lr=0.004")
    assert every[5].factors == {"neck": "pafpn", "optimizer.lr": 0.004}
    assert names(factors={"neck": ["fpn"], "attention@attention.lateral": ["none", "se"]}) == ["baseline", "lateral-se"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "k=null"),
        (True, "k=true"),
        (0.5, "k=0.5"),
        ("fpn", "k=fpn"),
        ("1", 'k="1"'),
        ("true", 'k="true"'),
        ("a, b", 'k="a, b"'),
        ("/with space/x", "k=/with space/x"),
        ('say "a, b"', 'k="say \\"a, b\\""'),
        ([1, "x"], "k=[1,x]"),
        ([{"name": "p3", "inputs": ["c3", "c4"], "block": None}], "k=[{name:p3,inputs:[c3,c4],block:null}]"),
        ({}, "k={}"),
    ],
)
def test_a_value_is_written_so_that_hydra_reads_it_back(value: Any, text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from detfuse.config.schema.overrides import plain

    assert override("k", value) == text
    assert plain(OverridesParser.create().parse_override(text).value()) == value


@pytest.mark.parametrize("name", PAGES)
def test_every_shipped_plan_can_be_planned(name: str) -> None:
    if name.startswith("attention") and "attention@" not in (conf_dir() / "base.yaml").read_text():
        return  # there is no place for attention yet
    plan = prepare(page(name), name, ["data.root=bccd"] if name.startswith("bccd") else []).plan
    assert len(plan.arms) >= 3
    assert plan.seeds == (0, 1, 2)


def test_the_tables_of_the_fpn_paper_leave_out_what_they_name() -> None:
    nodes = {
        name: {node["name"]: node["inputs"] for node in resolved.config["neck"]["nodes"] or []}
        for name, resolved in prepare(page("fpn_table2"), "x", []).resolved.items()
    }
    assert nodes["no_top_down"]["t3"] == ["c3"]
    assert nodes["no_lateral"]["t3"] == ["t4"]
    assert nodes["finest_only"]["t3"] == ["c3", "t4"]


def test_what_a_choice_brings_along_is_listed() -> None:
    plan = prepare(page("necks"), "necks", []).plan
    assert plan.covariates["unfused"] == {}
    assert plan.covariates["early_pyramid"] == {"operator": ("add", "concat"), "resample.up": ("nearest", "bilinear")}
    assert plan.covariates["bifpn"]["neck.norm"] == ("none", "batch")
    assert not any(prepare(page("topologies"), "topologies", []).plan.covariates.values())


def test_typed_overrides_hold_for_all_arms_and_win_over_the_pages() -> None:
    given = Ablation(factors={"neck": ["fpn", "pafpn"]}, common={"trainer.max_epochs": 3, "optimizer.lr": 0.01})
    prepared = prepare(given, "x", ["trainer.max_epochs=1"])
    assert prepared.plan.common == ("optimizer.lr=0.01", "trainer.max_epochs=1")
    for resolved in prepared.resolved.values():
        assert resolved.config["trainer"]["max_epochs"] == 1
        assert resolved.config["optimizer"]["lr"] == 0.01
    assert prepared.argv(prepared.plan.arms[1], 7)[-2:] == ["neck=pafpn", "seed=7"]


def test_a_plan_with_one_arm_is_refused() -> None:
    (problem,) = refused(factors={"neck": ["fpn"]})
    assert problem.startswith("the only arm is fpn: a comparison needs at least two arms")
    assert refused(arms={})[0].startswith("there is no arm")
    assert refused()[0].startswith("a plan has either factors")
    assert refused(factors={"neck": []})[0].startswith("factors.neck: give a list of levels")


def test_a_seed_given_twice_is_refused() -> None:
    (problem,) = refused(factors={"neck": ["fpn", "pafpn"]}, seeds=[0, 1, 1])
    assert problem == "seeds=[0, 1, 1]: 1 is given twice; a run counts once"
    assert refused(factors={"neck": ["fpn", "pafpn"]}, seeds=[])[0].startswith("seeds=[]")
    with pytest.raises(InputError, match=r"seeds must lie in 0\.\.4294967295"):
        Ablation(factors={"neck": ["fpn", "pafpn"]}, seeds=[-1])


def test_an_arm_given_twice_is_refused() -> None:
    (problem,) = refused(factors={"neck": ["fpn", "pafpn", "fpn"]})
    assert problem.startswith("two arms are called fpn (neck=fpn and neck=fpn)")


def test_the_same_configuration_under_two_names_is_said_to_be_one() -> None:
    plan = prepare(Ablation(arms={"a": {"neck": "fpn"}, "b": {"neck": "fpn"}}), "x", []).plan
    assert plan.arms[1].notes == ("configured exactly as a: any difference is noise",)


def test_arms_that_differ_in_two_factors_say_so() -> None:
    factors = {"neck": ["fpn", "pafpn"], "optimizer.lr": [0.001, 0.002]}
    plan = prepare(Ablation(factors=factors, design="factorial"), "x", []).plan
    assert [bool(arm.notes) for arm in plan.arms] == [False, False, False, True]
    assert "neck and optimizer.lr" in plan.arms[3].notes[0]


def test_every_mistake_of_every_arm_is_told_together() -> None:
    problems = refused(
        typed=("trainer.max_epoch=1",),
        arms={"a": {"neck": "fpn"}, "b": {"neck": "fnp"}, "c": {"neck.norm": "layer", "operator": "ad"}},
    )
    assert len(problems) == 4
    assert problems[0].startswith("all arms: trainer.max_epoch=1: there is no trainer.max_epoch")
    assert problems[1].startswith("arm b: neck=fnp: there is no neck 'fnp'")
    assert any(problem.startswith("arm c: operator=ad: there is no operator 'ad'") for problem in problems)
    assert any("expected one of none, batch, group, got 'layer'" in problem for problem in problems)


def test_names_that_cannot_be_folders_and_unknown_baselines_are_refused() -> None:
    assert "arm '../x'" in refused(arms={"../x": {}, "b": {}})[0]
    assert refused(arms={"a": {}, "b": {}}, baseline="c") == ["baseline=c: there is no such arm; there are: a, b"]


def test_what_the_arms_differ_in_cannot_be_typed() -> None:
    (problem,) = refused(typed=("neck=unet",), factors={"neck": ["fpn", "pafpn"]})
    assert problem.startswith("neck=unet: neck is what the arms differ in (arm pafpn)")


def test_a_stored_plan_is_read_back_and_a_changed_one_refused(tmp_path: Path) -> None:
    given = Ablation(factors={"neck": ["fpn", "pafpn"]})
    first = prepare(given, "x", [])
    assert store(tmp_path, first) == ""
    assert read_plan(tmp_path) == first.plan
    before = (tmp_path / "plan.yaml").read_bytes()
    assert store(tmp_path, prepare(given, "x", [])) == ""
    assert (tmp_path / "plan.yaml").read_bytes() == before
    for changed, named in (
        (prepare(given, "x", ["trainer.max_epochs=3"]), "arm fpn: trainer.max_epochs: 7 -> 3"),
        (prepare(Ablation(factors={"neck": ["fpn", "unet"]}), "x", []), "the arm unet is not in it"),
        (prepare(Ablation(factors={"neck": ["pafpn", "fpn"]}), "x", []), "its baseline is fpn, not pafpn"),
        (prepare(Ablation(factors=given.factors, equivalence=0.01), "x", []), "equivalence: 0.005 -> 0.01"),
    ):
        with pytest.raises(PlanError) as caught:
            store(tmp_path, changed)
        assert f"{tmp_path} holds another plan: {named}" in caught.value.problems
        assert caught.value.problems[-1].startswith("give the new plan a folder of its own by name=...")
        assert (tmp_path / "plan.yaml").read_bytes() == before


def test_what_is_allowed_may_be_added_to_a_stored_plan(tmp_path: Path) -> None:
    arms = {"a": {"neck": "fpn"}, "b": {"neck": "pafpn"}}
    store(tmp_path, prepare(Ablation(arms=arms), "x", []))
    store(tmp_path, prepare(Ablation(arms=arms, allow=["environment", "schedule"], together=True), "x", []))
    assert read_plan(tmp_path).allow == ("environment", "schedule"), "it is the remedy of what stops a stored plan"


def test_seeds_may_be_added_to_a_stored_plan(tmp_path: Path) -> None:
    factors = {"neck": ["fpn", "pafpn"]}
    store(tmp_path, prepare(Ablation(factors=factors, seeds=[0, 1]), "x", []))
    assert store(tmp_path, prepare(Ablation(factors=factors, seeds=[0, 1, 2, 3]), "x", [])) == "seeds added: 2, 3"
    assert read_plan(tmp_path).seeds == (0, 1, 2, 3)


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys; from detfuse.ablation.design import Ablation; "
        "from detfuse.ablation.plan.prepared import prepare; "
        "import detfuse.cli.ablation_run; prepare(Ablation(factors={'neck': ['fpn', 'pafpn']}), 'x', []); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
