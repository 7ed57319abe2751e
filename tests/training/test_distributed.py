"""Two processes (gloo, CPU) score exactly as one does: about 20 s, most of it the start of the processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ddp_worker import validate  # type: ignore[import-not-found]  # lies beside this file


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    worker = Path(__file__).with_name("ddp_worker.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, worker, folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return folder


def load(folder: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"rank_{rank}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("num_images", [5, 1])
def test_two_processes_score_as_one_to_the_last_bit(two_processes: Path, num_images: int) -> None:
    checkpoint = two_processes / f"run_{num_images}" / "checkpoints" / "last.ckpt"
    alone = validate(two_processes, checkpoint, num_images)
    found = load(two_processes, 0)
    assert alone["metrics"]["num_images"] == num_images
    assert found[f"evaluated {num_images}"] == alone
    assert found[f"trained {num_images}"] == alone  # norm statistics are those of the checkpoint too


def test_both_processes_know_predictions_and_metrics(two_processes: Path) -> None:
    assert load(two_processes, 0) == load(two_processes, 1)
    assert load(two_processes, 0)["rows 5"] == [10 * i for i in range(5) for _ in range(4)]
    assert load(two_processes, 0)["averaged"] == 1
