"""What a command tells as the user's mistake, and what it does not: a bug passes through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from detfuse.ablation.design import PlanError
from detfuse.ablation.plan import arms, probe
from detfuse.cli import evaluation_run, training_run
from detfuse.cli.commands import COMMANDS
from detfuse.config import conf_dir
from detfuse.config.resolve import resolve
from detfuse.errors import InputError, UserError
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import require_file, require_folder


def invocation(command: str, *argv: str) -> Invocation:
    found = resolve(list(argv), COMMANDS[command].settings)
    return Invocation(found.config, list(argv), found.choices, multirun=False, directories=[conf_dir()])


def broken(error: Exception) -> Any:
    def build(*_: Any) -> None:
        raise error

    return build


def test_a_bug_in_building_is_no_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = invocation("train", f"runs_dir={tmp_path}/runs")
    for bug in (KeyError("c7"), TypeError("f() takes 1 argument"), ValueError("too many values to unpack")):
        monkeypatch.setattr("detfuse.build.build_backbone", broken(bug))
        with pytest.raises(type(bug)) as raised:
            training_run.run(given)
        assert not isinstance(raised.value, UserError)
    monkeypatch.setattr("detfuse.build.build_backbone", broken(InputError("no such model")))
    with pytest.raises(UserError, match="no such model"):
        training_run.run(given)
    assert list(tmp_path.iterdir()) == []


def test_a_bug_is_no_reason_why_an_arm_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    configs: dict[str, Any] = {"fpn": {}, "pafpn": {}}

    def tried(error: Exception) -> None:
        monkeypatch.setattr(arms, "build_backbone", broken(error))
        probe.probe(configs, startup=None, threads=torch.get_num_threads(), read={})

    with pytest.raises(KeyError, match="c7") as bug:
        tried(KeyError("c7"))
    assert bug.value.__notes__ == ["while arm fpn was built and tried"]
    with pytest.raises(PlanError, match="arm fpn cannot be built: two levels are needed"):
        tried(InputError("two levels are needed"))
    with pytest.raises(PlanError, match=r"arm pafpn cannot be built: out of memory \(OutOfMemoryError: CUDA"):
        tried(torch.OutOfMemoryError("CUDA out of memory."))


def run_folder(folder: Path, config: str | None = None, command: str | None = None) -> Invocation:
    """A command that continues a run, of which all but the last checkpoint is read."""
    given = invocation("train", f"resume={folder}")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump(given.config) if config is None else config)
    (folder / "command.json").write_text(json.dumps({"choices": given.choices}) if command is None else command)
    return given


@pytest.mark.parametrize(
    ("config", "command", "says"),
    [
        ("{seed: [", None, "config.yaml: cannot be read"),
        ("a: !!python/object/apply:os.getcwd []", None, "config.yaml: cannot be read"),
        ("just text", None, "config.yaml: expected a mapping"),
        ("{seed: 0, neck: 3}", None, r"config.yaml: its configuration does not fit:\n.*neck=3 \(config.yaml\)"),
        ("{seed: 0}", None, "head is missing"),
        (None, "{", "command.json: cannot be read"),
        (None, "[]", "command.json: expected the keys"),
        (None, "{}", "command.json: 'choices' is missing"),
    ],
)
def test_a_run_folder_that_was_edited_is_told_with_its_file(
    tmp_path: Path, config: str | None, command: str | None, says: str
) -> None:
    with pytest.raises(UserError, match=f"(?s){says}"):
        training_run.run(run_folder(tmp_path / "run", config, command))


def test_a_private_part_that_cannot_be_imported_is_told_with_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from detfuse.build import ConfigError, instantiate

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/broken.py").write_text("\nimport nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"mine.broken.Part: cannot be imported.*nothing_of_that_name.*broken.py:2"):
        instantiate({"_target_": "mine.broken.Part"})
    with pytest.raises(ConfigError, match=r"mine\.absent\.Part: cannot be imported"):
        instantiate({"_target_": "mine.absent.Part"})


def test_outputs_are_tried_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert require_folder(tmp_path / "a/b") == tmp_path / "a/b"
    assert require_file(tmp_path / "a/b.json") == tmp_path / "a/b.json"
    with pytest.raises(UserError, match=r"file/x/y: .*file is a file"):
        require_folder(tmp_path / "file/x/y")
    with pytest.raises(UserError, match="this is a folder"):
        require_file(tmp_path)
    with pytest.raises(OSError, match="too long"):
        require_folder(tmp_path / ("x" * 300))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_rights_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=f"no right to write in {tmp_path}"):
        require_folder(tmp_path / "a/b")


def test_training_and_evaluation_ask_before_they_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("detfuse.build.build_backbone", broken(AssertionError("built")))
    with pytest.raises(UserError, match="is a file"):
        training_run.run(invocation("train", f"runs_dir={tmp_path}/file/runs"))
    monkeypatch.setattr(evaluation_run, "open_checkpoint", lambda _: (None, {}))
    with pytest.raises(UserError, match="is a file"):
        evaluation_run.run(invocation("evaluate", "checkpoint=x", f"output={tmp_path}/file/o"))


TINY_RUN = (
    "data.num_train=2",
    "data.num_val=1",
    "data.loader.batch_size=1",
    "neck.out_channels=16",
    "trainer.accelerator=cpu",
)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["trainer.strategy=nonsense"], "trainer: .*nonsense"),
        (["neck.norm=batch"], "1 value per statistic"),
        (["attention@attention.fused=non_local"], "memory"),
        (["trainer.max_epochs=-1"], "a run needs an end"),  # Lightning asks for it once the files are written
    ],
)
def test_a_refusal_before_the_first_step_leaves_nothing_behind(
    typed: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training_run, "device_memory", lambda device: 2**10)
    given = [*TINY_RUN, *typed, f"data.root={tmp_path}/data", f"runs_dir={tmp_path}/runs"]
    with pytest.raises(UserError, match=says):
        training_run.run(invocation("train", *given))
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_a_refusal_leaves_the_run_that_was_to_be_overwritten(tmp_path: Path) -> None:
    old = tmp_path / "runs" / "default" / "old"
    old.mkdir(parents=True)
    (old / "config.yaml").write_text("seed: 0")
    (old / "metrics.json").touch()
    given = ["name=old", "overwrite=true", "trainer.strategy=nonsense", f"data.root={tmp_path}/data"]
    with pytest.raises(UserError, match="nonsense"):
        training_run.run(invocation("train", *TINY_RUN, *given, f"runs_dir={tmp_path}/runs"))
    assert (old / "config.yaml").read_text() == "seed: 0"
    assert (old / "metrics.json").is_file()
