"""A job that a scheduler stops: the real command, with data workers, in a process group of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from commands import REPOSITORY, TINY  # type: ignore[import-not-found]  # pytest puts this folder on the path

GIVEN = (
    *TINY,
    *("data.loader.num_workers=2", "data.loader.batch_size=2", "trainer.max_epochs=200", "logger=none", "name=job"),
    *("callbacks.pictures=null", "trainer.limit_val_batches=1"),
)


def test_a_signal_to_the_whole_job_saves_and_queues_it_again(tmp_path: Path) -> None:
    """As Ctrl-C and SLURM send it: to the command and to its workers at once."""
    queue = tmp_path / "bin" / "scontrol"
    queue.parent.mkdir()
    queue.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/queued\n")
    queue.chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "17", "PYTHONWARNINGS": "ignore"}
    environment["PATH"] = f"{queue.parent}:{environment['PATH']}"
    job = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "scripts" / "train.py"), *GIVEN],
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    last = tmp_path / "runs/default/job/checkpoints/last.ckpt"
    deadline = time.monotonic() + 240
    while not last.is_file() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(job.pid, signal.SIGUSR1)
    printed, told = job.communicate(timeout=120)
    assert job.returncode == 128 + signal.SIGUSR1, told
    assert "SIGUSR1: the run ends after this step" in told
    assert "SIGUSR1: saved runs/default/job/checkpoints/last.ckpt at step " in printed
    assert "the same command with resume=true goes on from there\njob 17 is queued again\n" in printed
    assert (tmp_path / "queued").read_text() == "requeue 17\n"
    step = int(printed.split("last.ckpt at step ")[1].split(";")[0])
    assert torch.load(last, weights_only=True)["global_step"] == step
