from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detfuse.cli import COMMANDS

# A command that does nothing but fail for some seeds: what is done around it, without torch.
_SWEEP = """
import sys
from dataclasses import replace
from detfuse.cli import train
from detfuse.errors import UserError

def job(invocation):
    print("job", *invocation.typed)
    if invocation.config["seed"] == 1:
        raise RuntimeError("boom")
    if invocation.config["seed"] == 2:
        raise UserError("a mistake")
    if invocation.config["seed"] == 4:
        open("nowhere/there", "w")
    if invocation.config["seed"] == 5:
        raise KeyboardInterrupt

replace(train, run=job)()
"""
_NO_TORCH = """
import sys
import detfuse.cli
try:
    name = sys.argv.pop(1)
    getattr(detfuse.cli, name, detfuse.cli.COMMANDS.get(name))()
finally:
    assert "torch" not in sys.modules
"""


def run(folder: Path, code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


_TYPED = """
from dataclasses import replace
from detfuse.cli import evaluate

def job(invocation):
    print(*invocation.typed, invocation.config["data"].get("val_annotations"), invocation.swept)

replace(evaluate, run=job)()
"""


def test_what_the_checkpoints_own_kind_may_have_is_handed_on_as_typed(tmp_path: Path) -> None:
    """The default kind of data has no such key, which Hydra refuses in words of its own."""
    done = run(tmp_path, _TYPED, "checkpoint=a.ckpt", "data.val_annotations=b.json", "combine.sigma=0.4")
    assert done.stdout == "checkpoint=a.ckpt data.val_annotations=b.json combine.sigma=0.4 b.json ()\n", done.stderr
    wrong = run(tmp_path, _TYPED, "checkpoint=a.ckpt", "data.val_annotation=b.json", "combine.sigma=no")
    assert "data.val_annotation=b.json: there is no data.val_annotation; did you mean val_annotations?" in wrong.stderr
    assert "combine.sigma=no (command line): expected" in wrong.stderr
    assert "data.root" not in wrong.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_without_torch(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, _NO_TORCH, command, "--help")
    assert done.returncode == 0, done.stderr
    assert COMMANDS[command].settings.called()[0] in done.stdout


def test_a_family_of_commands_lists_them_and_refuses_others(tmp_path: Path) -> None:
    done = run(tmp_path, _NO_TORCH, "data", "--help")
    assert "detfuse-data convert" in done.stdout
    done = run(tmp_path, _NO_TORCH, "data", "covert", "data.root=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the first argument must be check or browse or convert, got covert" in done.stderr


def test_mistakes_are_told_together_on_stderr(tmp_path: Path) -> None:
    ranges = ["head.num_convs=-1", "neck.width=0", "optimizer.lr=nan", "data.transform.short_side=0", "seed=-1"]
    done = run(tmp_path, _NO_TORCH, "train", "neck=fnp", "+neck.out_chanels=3", "trainer.precision=high", *ranges)
    assert done.returncode == 2
    assert done.stderr.startswith("8 mistakes:\n")
    assert len(done.stderr.splitlines()) == 9
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_flags_and_overrides_may_be_mixed(tmp_path: Path) -> None:
    done = run(tmp_path, _NO_TORCH, "train", "neck=pafpn", "--cfg", "job", "seed=3")
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert shown["seed"] == 3
    assert shown["neck"]["topology"]["_target_"].endswith("pafpn")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("override", ["hydra/sweeper=foo", "hydra.foo=1", "hydra.run.dir=${nowhere}"])
def test_what_hydra_refuses_is_told_plainly(tmp_path: Path, override: str) -> None:
    done = run(tmp_path, _SWEEP, override)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert "HYDRA_FULL_ERROR" not in done.stderr


def test_a_typed_mapping_replaces_the_page(tmp_path: Path) -> None:
    code = (
        "from dataclasses import replace\nfrom detfuse.cli import ablate\n"
        "show = lambda job: print(*(job.config['ablation'][key] for key in ('factors', 'arms', 'common')))\n"
        "replace(ablate, run=show)()"
    )
    arms = "ablation.arms={a: {neck: fpn}, b: {neck: pafpn, neck.out_channels: 32}}"
    done = run(tmp_path, code, "ablation.factors=null", arms, "ablation.common={trainer.max_epochs: 1}")
    assert done.stdout == (
        "None {'a': {'neck': 'fpn'}, 'b': {'neck': 'pafpn', 'neck.out_channels': 32}} {'trainer.max_epochs': 1}\n"
    ), done.stderr
    done = run(
        tmp_path, code, "ablation.factors={head.tower_channels: [16, 32], attention@attention.lateral: [none, se]}"
    )
    assert done.stdout.startswith(
        "{'head.tower_channels': [16, 32], 'attention@attention.lateral': ['none', 'se']} None"
    ), done.stderr


def test_a_sweep_survives_its_failures(tmp_path: Path) -> None:
    done = run(tmp_path, _SWEEP, "-m", "seed=0,1,2,3", "neck=early")
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if line.startswith("job")] == [
        f"job seed={seed} neck=early" for seed in range(4)
    ]
    assert "2 of the sweep's runs failed:" in done.stderr
    assert "seed=1 neck=early: RuntimeError: boom" in done.stderr
    assert "seed=2 neck=early: a mistake" in done.stderr


def test_a_users_error_has_no_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, _SWEEP, "seed=2")
    assert (done.returncode, done.stderr) == (1, "error: a mistake\n")
    assert run(tmp_path, _SWEEP, "seed=0").returncode == 0


def test_what_all_processes_find_is_told_by_the_first_and_an_error_says_of_which_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    code = _SWEEP.replace("import sys", "import sys, warnings").replace("print(", 'warnings.warn("repaired"); print(')
    assert run(tmp_path, code, "seed=2").stderr == "error (rank 1): a mistake\n"
    refused = run(tmp_path, _SWEEP, "sed=2")
    assert (refused.returncode, refused.stderr) == (2, "")


def test_what_the_system_refuses_is_told_with_its_path(tmp_path: Path) -> None:
    done = run(tmp_path, _SWEEP, "seed=4")
    assert (done.returncode, done.stderr) == (1, "error: nowhere/there: no such file or directory\n")


def test_a_bug_shows_its_traceback_and_says_that_it_is_one(tmp_path: Path) -> None:
    done = run(tmp_path, _SWEEP, "seed=1")
    assert done.returncode == 70
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-2] == "RuntimeError: boom"
    assert lines[-1].startswith("This is a bug in detfuse")
    assert "HYDRA_FULL_ERROR" not in done.stderr


def test_an_interrupted_job_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, _SWEEP, "seed=5")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
