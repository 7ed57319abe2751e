"""An ablation as a user runs it: planned, killed in the middle, started again, changed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from html import escape
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from commands import REPOSITORY, TINY, TrainedHere, here, run

from detfuse.cli import ablation_run
from detfuse.errors import UserError

PAGE = """\
_target_: detfuse.ablation.design.Ablation
factors: {neck: [unfused, fpn]}
"""
SMALL = (*TINY, "trainer.max_epochs=1", "callbacks.pictures=null")
COMMAND = ("--config-dir", "my", "ablation=mine", *SMALL, "seeds=[0]")
FOLDER = Path("runs/ablations/mine")

pytestmark = pytest.mark.usefixtures("composed_once")


def states(folder: Path) -> dict[str, dict[str, object]]:
    files = (folder / FOLDER / "runs").glob("*/*/state.json")
    return {"/".join(file.parts[-3:-1]): json.loads(file.read_text()) for file in files}


def user(folder: Path) -> Path:
    (folder / "my" / "ablation").mkdir(parents=True)
    (folder / "my" / "ablation" / "mine.yaml").write_text(PAGE)
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, dict[str, object]]]:
    """An ablation killed when its first run was finished and started again: folder, output, states at the kill."""
    folder = user(tmp_path_factory.mktemp("killed"))
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "scripts" / "ablate.py"), *COMMAND],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 300
    while sum(state["state"] == "finished" for state in states(folder).values()) < 1 or len(states(folder)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    at_kill = states(folder)
    with patch.object(ablation_run, "LocalLauncher", TrainedHere):
        return folder, here("ablate", *COMMAND, folder=folder), at_kill


def test_a_killed_ablation_goes_on_where_it_stopped(
    interrupted: tuple[Path, str, dict[str, dict[str, object]]], tmp_path: Path
) -> None:
    folder, printed, at_kill = interrupted
    done = [name for name, state in at_kill.items() if state["state"] == "finished"]
    assert done == ["unfused/seed-0"]
    assert "unfused seed 0: was finished" in printed
    assert "fpn seed 0: finished after" in printed
    now = states(folder)
    assert [state["state"] for state in now.values()] == ["finished"] * 2
    assert now["unfused/seed-0"] == at_kill["unfused/seed-0"]
    assert printed.rstrip().endswith(f"folder: {FOLDER}")
    here("train", *SMALL, "neck=fpn", "seed=0", "name=whole", "evaluate=last", folder=tmp_path)
    for name in ("predictions.json", "metrics.json"):
        assert result(folder / FOLDER / "runs/fpn/seed-0" / name) == result(tmp_path / "runs/default/whole" / name)


def result(file: Path) -> Any:
    """What was computed, whichever checkpoint it is of."""
    content = json.loads(file.read_text())
    return {key: value for key, value in content.items() if key != "checkpoint"} if file.stem == "metrics" else content


def test_the_last_checkpoint_is_scored(interrupted: tuple[Path, str, dict[str, dict[str, object]]]) -> None:
    folder, _, _ = interrupted
    log = (folder / FOLDER / "runs/fpn/seed-0/log.txt").read_text()
    assert f"checkpoint: {FOLDER / 'runs/fpn/seed-0/checkpoints/last.ckpt'}" in log


def test_a_finished_ablation_runs_nothing_again_and_a_changed_one_is_refused(
    interrupted: tuple[Path, str, dict[str, dict[str, object]]],
) -> None:
    folder, _, _ = interrupted
    before = states(folder)
    printed = here("ablate", *COMMAND, folder=folder)
    assert "started" not in printed
    assert states(folder) == before
    refused = run("ablate", *COMMAND, "optimizer.lr=0.1", folder=folder, fails=True)
    assert f"{FOLDER} holds another plan: arm unfused: optimizer.lr: 0.001 -> 0.1" in refused.stderr
    assert "overwrite=true" in refused.stderr
    assert states(folder) == before
    report = folder / FOLDER / "report" / "report.html"
    written = report.read_bytes()
    report.unlink()
    again = here("ablate", *COMMAND, "report_only=true", folder=folder)
    assert again.count("finished") == 2
    assert f"report: {FOLDER / 'report/report.html'}" in again
    assert report.read_bytes() == written
    typed = escape(shlex.join(COMMAND[2:]))
    assert f"my {typed}</pre>" in written.decode(), "the one command that repeats all"


def test_one_arm_under_two_names_is_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation_run, "LocalLauncher", TrainedHere)
    folder = user(tmp_path)
    fused = "{combine: wbf, combine.score_scaling: members, combine.calibration: platt}"
    arms = f"arms: {{fpn: {{}}, again: {{}}, fused: {fused}}}\ntogether: true\n"
    (folder / "my/ablation/twice.yaml").write_text(PAGE.split("factors")[0] + arms)
    command = ("ablate", "--config-dir", "my", "ablation=twice", *SMALL, "head.score_threshold=0.001", "seeds=[0]")
    printed = here(*command, "data.loader.hold_back=0.25", folder=folder)
    one, fused = json.loads((folder / "runs/ablations/twice/comparison.json").read_text())["comparisons"]
    assert one["verdict"]["kind"] == "identical"
    assert {difference["estimate"] for difference in one["differences"]} <= {0.0, None}
    assert one["shared_start"] == 1.0
    assert "again" in printed
    _shares_the_training(folder / "runs/ablations/twice", printed)
    assert fused["shared_start"] == 1.0


def _shares_the_training(ablation: Path, printed: str) -> None:
    """The arm ``fused`` has results and a cost of its own, from candidates that tell what the validation told."""
    assert "3 arms x 1 seed (0) = 3 runs, 2 of them trained" in printed
    told = "shares the training of fpn: what that predicted is combined anew"
    assert f"note: {told}" in printed
    assert told in (ablation / "report/report.md").read_text()
    trained, fused = ablation / "runs/fpn/seed-0", ablation / "runs/fused/seed-0"
    assert not (fused / "checkpoints").exists()
    assert not (fused / "config.yaml").exists()
    costs = [json.loads((folder / "cost.json").read_text()) for folder in (trained, fused)]
    assert costs[0]["timing"]["checkpoint"] == costs[1]["timing"]["checkpoint"]
    checkpoint = ("evaluate", f"checkpoint={trained / 'checkpoints/last.ckpt'}")
    here(*checkpoint, f"candidates={trained / 'candidates.pt'}", "output=again", folder=ablation)
    fitted = ("combine=wbf", "combine.score_scaling=members", "combine.calibration=platt")
    told = here(*checkpoint, *fitted, "output=fused", folder=ablation)
    lines = json.loads((fused / "calibration.json").read_text())["calibration"]
    assert f"combine.calibration=[[{lines[0][0]:.4g}" in told
    assert lines[0] != [1, 0]
    assert len(lines) == 5
    for scored, stored in ((ablation / "again", trained), (ablation / "fused", fused)):
        assert len(json.loads((scored / "predictions.json").read_text())) > 100
        for name in ("predictions.json", "metrics.json"):
            assert result(scored / name) == result(stored / name)


def test_runs_of_another_environment_are_no_pairs(
    interrupted: tuple[Path, str, dict[str, dict[str, object]]],
) -> None:
    folder, _, _ = interrupted
    file = folder / FOLDER / "runs/fpn/seed-0/environment.json"
    content = file.read_text()
    file.write_text(json.dumps({**json.loads(content), "torch": "1.0.0"}))
    told = r"runs/fpn/seed-0 was made in another environment \(torch: 1\.0\.0 -> "
    for typed in ((), ("report_only=true",)):
        with pytest.raises(UserError, match=told):
            here("ablate", *COMMAND, *typed, folder=folder)
    here("ablate", *COMMAND, "report_only=true", "allow=[environment]", folder=folder)
    file.write_text(content)


def test_a_report_of_missing_or_contradicting_runs_says_so_and_fails(
    interrupted: tuple[Path, str, dict[str, dict[str, object]]],
) -> None:
    folder, _, _ = interrupted
    file = folder / FOLDER / "runs/fpn/seed-0/metrics.json"
    content = file.read_text()
    stored = json.loads(content)
    stored["stats"]["mAP"] = 0.5
    file.write_text(json.dumps(stored))
    with pytest.raises(UserError) as refused:
        here("ablate", *COMMAND, "report_only=true", folder=folder)
    assert f"fpn, seed 0: mAP is 0.500000 in {FOLDER}/runs/fpn/seed-0/metrics.json, but 0." in str(refused.value)
    file.unlink()
    missing = run("ablate", *COMMAND, "report_only=true", folder=folder, fails=True)
    file.write_text(content)
    assert "could be compared. 1 of 1 pairs of runs is missing, all of fpn." in missing.stdout, "in the headline"
    assert "error: 1 of 2 runs are missing" in missing.stderr


def test_arms_that_cannot_be_built_are_named_before_anything_runs(tmp_path: Path) -> None:
    folder = user(tmp_path)
    (folder / "my/ablation/bad.yaml").write_text(
        "_target_: detfuse.ablation.design.Ablation\n"
        "arms:\n"
        "  fpn: {neck: fpn}\n"
        "  wide: {neck: unfused, neck.topology.project: false}\n"
        "  open: {neck: fpn, neck.topology: null}\n"
    )
    bad = ("--config-dir", "my", "ablation=bad", *TINY)
    with pytest.raises(UserError) as refused:
        here("ablate", *bad, folder=folder)
    told = str(refused.value)
    assert "the ablation has 2 mistakes:" in told
    assert "arm wide cannot be built: " in told
    assert "arm open cannot be built: a graph neck needs a topology" in told
    assert not (folder / "runs").exists()


def test_other_levels_must_be_allowed_and_a_plan_alone_leaves_nothing(tmp_path: Path) -> None:
    folder = user(tmp_path)
    (folder / "my/ablation/early.yaml").write_text(PAGE.replace("fpn", "early"))
    command = ("--config-dir", "my", "ablation=early", *TINY, "plan_only=true")
    with pytest.raises(UserError) as refused:
        here("ablate", *command, folder=folder)
    told = "arm early: its head sees the stride 8, that of unfused the strides 8, 16, 32, 64, 128"
    assert told in str(refused.value)
    printed = " ".join(here("ablate", *command, "allow=[levels]", folder=folder).split())
    assert "levels strides 8, 16, 32, 64, 128 -> stride 8" in printed
    assert "per run" in printed
    assert not (folder / "runs").exists()


def test_a_schedule_that_decides_must_be_allowed(tmp_path: Path) -> None:
    folder = user(tmp_path)
    (folder / "my/ablation/slow.yaml").write_text(PAGE.replace("unfused, fpn", "fpn, bifpn"))
    command = ("--config-dir", "my", "ablation=slow", *TINY, "plan_only=true", "trainer.max_epochs=4")
    with pytest.raises(UserError) as refused:
        here("ablate", *command, folder=folder)
    told = "30 norms of the neck keep 92 % of the initial running statistics (momentum 0.01, 8 updates)"
    assert f"arm bifpn: {told}, nothing of the kind in fpn: " in str(refused.value)
    printed = " ".join(here("ablate", *command, "allow=[schedule]", folder=folder).split())
    assert f"note: {told}, nothing of the kind in fpn" in printed
    assert "norms of the neck none -> 30 BatchNorm2d" in printed
    assert "all arms the learning rate rises for 8 of the run's 8 steps" in printed


def test_a_sweep_of_ablations_and_unknown_settings_are_refused(tmp_path: Path) -> None:
    assert "an ablation is a sweep of its own" in run("ablate", "-m", "seeds=[0]", folder=tmp_path, fails=True).stderr
    refused = run("ablate", "ablation=nekcs", "seed=1", "jobs=two", folder=tmp_path, fails=True)
    assert refused.stderr.startswith("3 mistakes:")
    assert "did you mean necks" in refused.stderr
    assert "did you mean seeds" in refused.stderr
    assert not (tmp_path / "runs/ablations").exists()
