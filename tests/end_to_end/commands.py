"""Running the real commands as a user would, in processes of their own.

Importing torch, torchvision and Lightning takes a command longer than what the tests ask of it. So a process that has
imported them and the commands, composed a configuration and traced a detector (what torch looks up for that takes a
second, once), and run no command, waits for each test process and makes a copy of itself for every command: the script
runs as ``__main__`` with its own folder, arguments, environment, streams and exit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import chdir, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from detfuse.ablation.run.launcher import Handle, LocalLauncher
from detfuse.cli import COMMANDS
from detfuse.config import conf_dir, resolve
from detfuse.runs.invocation import Invocation

REPOSITORY = Path(__file__).resolve().parents[2]

TINY = (
    "data.num_train=16",
    "data.num_val=8",
    "data.image_size=64",
    "data.max_size=40",
    "data.transform.short_side=64",
    "data.loader.num_workers=0",
    "backbone.name=test_resnet",
    "neck.out_channels=16",
    "head.num_convs=1",
    "callbacks.pictures.train_batches=1",
    "callbacks.pictures.val_images=1",
)
"""A data set and a detector that train for an epoch in a second; to draw and store as usual would take longer."""

OF_THE_DETECTOR = tuple(text for text in TINY if text.startswith(("backbone", "neck", "head")))
"""Those that hold for any data."""

_SECONDS = 600
_COPIES = f"""
import gc, json, os, runpy, signal, sys
import timm, torch.utils.tensorboard
from detfuse.cli import ablation_run, evaluation_run, export_run, prediction_run, training_run
from detfuse.cli import ablate, evaluate, predict, train
from detfuse.build import build_detector
from detfuse.config import check, resolve
from detfuse.inspect.summary import summarise
for command in (ablate, evaluate, predict, train):
    check([], command.settings)
summarise(build_detector(resolve({list(TINY)!r}, train.settings).config, num_classes=3), (64, 64))
gc.collect()
gc.freeze()
for line in sys.stdin:
    task = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    signal.alarm({_SECONDS})
    for stream, path in enumerate((os.devnull, task["out"], task["err"])):
        os.dup2(os.open(path, os.O_RDWR), stream)
    os.chdir(task["folder"])
    os.environ.clear()
    os.environ.update(task["environment"])
    sys.argv = task["argv"]
    runpy.run_path(sys.argv[0], run_name="__main__")
    break
"""


def run(
    command: str, *argv: str, folder: Path, fails: bool = False, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """``python scripts/<command>.py argv`` in ``folder``; stdout and stderr are in the failure's message.

    Args:
        command: name of the script.
        argv: what is typed behind it.
        folder: where.
        fails: whether it is to fail.
        fresh: in an interpreter that has imported nothing, for what is about imports.
    """
    typed = [str(REPOSITORY / "scripts" / f"{command}.py"), *argv]
    done = (_fresh if fresh else _copied)(typed, folder)
    assert (done.returncode != 0) == fails, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def invocation(command: str, *typed: str) -> Invocation:
    """What the command's function is called with when this is typed, for what is not about processes."""
    found, overrides = resolve(list(typed), COMMANDS[command].settings), list(typed)
    directories = [conf_dir()]
    if "--config-dir" in overrides:
        place = overrides.index("--config-dir")
        directories.append(Path(overrides[place + 1]))
        del overrides[place : place + 2]
    return Invocation(found.config, overrides, found.choices, multirun=False, directories=directories)


def here(command: str, *argv: str, folder: Path) -> str:
    """What :func:`run` prints to stdout, without a process of its own: what the command refuses is raised."""
    printed = StringIO()
    with chdir(folder), redirect_stdout(printed), patch.dict(os.environ, _environment()):
        COMMANDS[command].run(invocation(command, *argv))
    return printed.getvalue()


class TrainedHere(LocalLauncher):
    """Starts runs of an ablation, those that train in this process: to import all in another takes twice as long."""

    def start(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> Handle:
        """See :class:`detfuse.ablation.run.launcher.Launcher`."""
        argv = list(command)
        if "detfuse.cli.arm" not in argv:
            return super().start(command, env, log)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(here("train", *argv[argv.index("detfuse.cli.arm") + 1 :], folder=Path.cwd()))
        return Ended()


class Ended:
    """A process that has done its work."""

    def poll(self) -> int:
        return 0

    def kill(self) -> None:
        pass


def _fresh(typed: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *typed]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False, env=_environment()
    )


def _copied(typed: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        task = {"argv": typed, "folder": str(folder), "environment": _environment(), "out": out.name, "err": err.name}
        copies = _copies()
        assert copies.stdin is not None
        assert copies.stdout is not None
        print(json.dumps(task), file=copies.stdin, flush=True)
        return subprocess.CompletedProcess(typed, int(copies.stdout.readline()), out.read(), err.read())


@cache
def _copies() -> subprocess.Popen[str]:
    """Takes a task a line and answers with its exit code; ends with this process, which closes its stdin."""
    return subprocess.Popen(
        [sys.executable, "-c", _COPIES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}  # the same numbers whatever else runs
