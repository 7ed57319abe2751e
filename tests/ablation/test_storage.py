"""Records survive their files; a file that is none says what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detfuse.ablation.records import Arm, DetectorCost, Plan, Run
from detfuse.ablation.storage import (
    read_cost,
    read_plan,
    read_run,
    write_comparison,
    write_cost,
    write_plan,
    write_run,
)
from detfuse.files.records import StorageError, from_plain, to_plain
from detfuse.statistics.records import Comparison, Difference, Score, Verdict

PLAN = Plan(
    name="necks",
    arms=(
        Arm("fpn", {"neck": "fpn"}, ()),
        Arm("pafpn", {"neck": "pafpn"}, ("neck=pafpn", "neck.width=48"), ("ö: yes",)),
    ),
    seeds=(0, 1),
    common=("data=coco",),
    budget="flops",
    covariates={"pafpn": {"neck.norm": ("none", "batch")}},
)
SCORE = Score("fpn", "mAP", {0: 0.25, 1: None}, 0.25, None)
DIFFERENCE = Difference("mAP", {0: 0.01}, 0.01, -0.02, 0.04, None, 0.015, "images only", 0.4, 0.4)
COMPARISON = Comparison("pafpn", "fpn", (0,), {1: "killed"}, (DIFFERENCE,), Verdict("undecided", "?", 7), None, 0.9)


def test_every_record_survives_its_file(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN)
    assert read_plan(tmp_path) == PLAN
    write_comparison(tmp_path, [SCORE], [COMPARISON])
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert [from_plain(Score, row) for row in content["scores"]] == [SCORE]
    assert [from_plain(Comparison, row) for row in content["comparisons"]] == [COMPARISON]
    cost = DetectorCost(10, 4, 10**12, (320, 480), None)
    write_cost(tmp_path, cost)
    assert read_cost(tmp_path) == cost
    run = Run("fpn", 0, tmp_path / "here", "out of memory", "137", 3.5)
    write_run(run)
    assert read_run(run.folder) == run


def test_a_moved_folder_knows_where_it_is(tmp_path: Path) -> None:
    write_run(Run("fpn", 0, tmp_path / "here", "finished"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert read_run(tmp_path / "there").folder == tmp_path / "there"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": "0"}, "plan: seeds: expected a list, got '0'"),
        ({"seeds": [0, True]}, r"plan: seeds\[1\]: expected a whole number, got True"),
        ({"budget": "money"}, "plan: budget: expected one of 'free', 'params', 'flops', got 'money'"),
        ({"color": 1}, r"plan: unknown key 'color' \(a Plan has name, arms"),
        ({"arms": [{"name": "a"}]}, r"plan: arms\[0\]: 'factors' is missing; 'overrides' is missing"),
        ({"covariates": {"a": {"norm": ["none"]}}}, r"plan: covariates.a.norm: expected a list of 2, got \['none'\]"),
        ({"equivalence": None}, "plan: equivalence: expected a number, got None"),
    ],
)
def test_what_is_no_plan_is_told_by_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StorageError, match=message):
        from_plain(Plan, {**to_plain(PLAN), **change}, "plan")


def test_seeds_are_numbers_again() -> None:
    assert from_plain(Score, json.loads(json.dumps(to_plain(SCORE)))) == SCORE
    with pytest.raises(StorageError, match="per_seed: expected whole numbers as keys, got 'first'"):
        from_plain(Score, {**to_plain(SCORE), "per_seed": {"first": 0.1}})


def test_broken_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cost\.json is missing"):
        read_cost(tmp_path)
    (tmp_path / "cost.json").write_text("{")
    with pytest.raises(StorageError, match=r"cost\.json: cannot be read \(Expecting"):
        read_cost(tmp_path)
    (tmp_path / "plan.yaml").write_text("a: [")
    with pytest.raises(StorageError, match=r"plan\.yaml: cannot be read"):
        read_plan(tmp_path)


def test_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    write_comparison(tmp_path, [SCORE], [])
    before = (tmp_path / "comparison.json").read_text()
    with pytest.raises(ValueError, match="Out of range float"):
        write_comparison(tmp_path, [replace(SCORE, mean=float("nan"))], [])
    assert (tmp_path / "comparison.json").read_text() == before
