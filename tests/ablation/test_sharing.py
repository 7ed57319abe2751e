"""Arms that differ only in what comes after training share it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detfuse.ablation.design import Ablation
from detfuse.ablation.plan.prepared import Prepared, prepare
from detfuse.ablation.run.jobs import jobs_of

pytestmark = pytest.mark.usefixtures("composed_once")


def prepared(**given: Any) -> Prepared:
    return prepare(Ablation(**given, seeds=[0, 1]), "x", ["trainer.accelerator=cpu"])


def test_a_training_is_shared_by_the_arms_that_differ_only_in_what_is_done_with_its_candidates() -> None:
    factors = {"neck": ["fpn", "unfused"], "combine": ["nms", "wbf"]}
    assert prepared(factors=factors, design="factorial").plan.shares == {
        "fpn_wbf": "fpn_nms",
        "unfused_wbf": "unfused_nms",
    }
    arms = {
        "wbf": {"combine": "wbf"},
        "same": {"combine": "wbf"},
        "other": {"combine.score_scaling": "members", "combine": "wbf"},
    }
    found = prepared(arms={**arms, "lr": {"combine": "nms", "optimizer.lr": 0.1}}, together=True).plan
    assert found.shares == {"other": "wbf"}  # two that are configured alike show what a run differs from another in
    assert not prepared(factors={"neck": ["fpn", "unfused"]}).plan.shares


def test_an_arm_that_shares_is_scored_from_the_other_ones_folder(tmp_path: Path) -> None:
    arms = {"nms": {}, "soft": {"combine": "soft_nms", "combine.sigma": 0.3}}
    jobs = jobs_of(prepared(arms=arms), tmp_path)
    assert [(job.arm, job.seed, job.shares) for job in jobs[:3]] == [("nms", 0, ""), ("soft", 0, "nms"), ("nms", 1, "")]
    command = jobs[3].command
    trained = tmp_path / "runs" / "nms" / "seed-1"
    assert command[:4][-1] == "detfuse.cli.scored_arm"
    assert f"checkpoint={trained / 'checkpoints' / 'last.ckpt'}" in command
    assert {"combine=soft_nms", "combine.sigma=0.3", "combine.method=gaussian", "trainer.accelerator=cpu"} <= set(
        command
    )
    assert f"output={tmp_path / 'runs' / 'soft' / 'seed-1'}" in command
