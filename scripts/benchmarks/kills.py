"""Runs that are killed at random steps, and what is left of them: ``python scripts/benchmark.py kills``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

SMALL = (
    *("data.num_train=18", "data.num_val=4", "data.image_size=64", "data.max_size=40", "data.transform.short_side=64"),
    *("data.loader.batch_size=2", "neck.out_channels=16", "head.num_convs=1", "trainer.max_epochs=3", "logger=none"),
    *("callbacks.pictures=null", "trainer.accelerator=cpu", "trainer.limit_val_batches=1"),
)
KILLED = {
    "plain": ("data.loader.num_workers=0",),
    "two workers": ("data.loader.num_workers=2",),
    "two workers, average, steps of two batches": (
        *("data.loader.num_workers=2", "callbacks=ema", "trainer.accumulate_grad_batches=2"),
    ),
    "crop, jitter, brightness": (
        *("data.loader.num_workers=2", "data.transform.crop=0.5", "data.transform.scale_jitter=[0.5,1.5]"),
        "data.transform.brightness=0.3",
    ),
    "bf16-mixed": ("data.loader.num_workers=2", "trainer.precision=bf16-mixed"),
    "two processes": ("data.loader.num_workers=2", "trainer.devices=2", "trainer.strategy=ddp"),
}


def kills(points: int = 5) -> None:
    """Kill a run (SIGKILL, its whole group) at random steps, go on each time, and compare with one that was not killed.

    A checkpoint is written after every second step. What is compared is all of ``last.ckpt`` but the run's own name.
    """
    rng = np.random.default_rng(0)
    print("| setting | killed after step | parts that differ |\n|---|---|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for setting, given in KILLED.items():
            argv = [*SMALL, *given, "callbacks.checkpoints.every_n_steps=2"]
            steps = 27 // (2 if "trainer.accumulate_grad_batches=2" in given else 1) // (2 if "two p" in setting else 1)
            whole = _trained(Path(folder), [*argv, f"name={_slug(setting)}"], None)
            for step in sorted(rng.choice(np.arange(2, steps - 1), size=points, replace=False).tolist()):
                name = f"name={_slug(setting)}-{step}"
                _trained(Path(folder), [*argv, name], step)
                resumed = _trained(Path(folder), [*argv, name, "resume=true"], None)
                print(f"| {setting} | {step} | {_differing(whole, resumed)} |", flush=True)


def _slug(setting: str) -> str:
    return setting.replace(", ", "-").replace(" ", "-")


def _trained(folder: Path, argv: list[str], kill_at: int | None) -> dict[str, Any]:
    """What ``last.ckpt`` holds after a run; or at its death, once it has stored so many steps."""
    name = next(argument for argument in argv if argument.startswith("name=")).removeprefix("name=")
    last = folder / "runs" / "default" / name / "checkpoints" / "last.ckpt"
    with (folder / f"{name}.log").open("a") as log:
        run = subprocess.Popen(
            [sys.executable, Path(__file__).parents[1] / "train.py", *argv],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        seen = 0
        while run.poll() is None:
            time.sleep(0.01)
            if kill_at is not None and last.is_file() and last.stat().st_mtime_ns != seen:
                seen = last.stat().st_mtime_ns
                stored: dict[str, Any] = torch.load(last, weights_only=True)
                if stored["global_step"] >= kill_at:
                    os.killpg(run.pid, signal.SIGKILL)
                    run.wait()
                    return stored
    if run.returncode:
        raise SystemExit((folder / f"{name}.log").read_text()[-2000:])
    found: dict[str, Any] = torch.load(last, weights_only=True)
    return found


def _differing(a: Any, b: Any) -> int:
    """How many tensors, numbers and texts of two checkpoints are not the same to the last bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = (a.keys() | b.keys()) - {"config"}  # it has the run's name
        return sum(_differing(a.get(key), b.get(key)) for key in keys)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return sum(_differing(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return int(not torch.equal(a, b))
    return int(a != b)
