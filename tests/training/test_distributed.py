"""Two processes (gloo, CPU) score exactly as one does, and learn as one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ddp_learning import (  # type: ignore[import-not-found]  # lies beside this file
    BATCH,
    EPOCHS,
    HEADS,
    OBJECTS,
    SEED,
    compose_all,
    learnt,
    learnt_from_the_generated_data,
    write_data,
)
from ddp_worker import train_and_validate, validate  # type: ignore[import-not-found]  # likewise
from forks import in_processes  # type: ignore[import-not-found]  # likewise

from detfuse.data.loader import TrainBatches


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    write_data(folder / "data")
    compose_all(folder / "data")
    codes = in_processes(2, partial(train_and_validate, folder), folder)
    assert codes == [0, 0], "".join((folder / f"rank_{rank}.err").read_text()[-3000:] for rank in (0, 1))
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


def test_sums_are_divided_by_the_mean_count_of_the_processes(two_processes: Path) -> None:
    """At least 1 in both together: a single positive weighs the same whatever the number of processes."""
    assert load(two_processes, 0)["normalizers"] == [[0.5, 0.5, 4.5], [0.5, 0.5, 4.5], [0.5, 1.0, 5.0]]


def test_the_shares_of_two_processes_are_very_unequal() -> None:
    """What the next test rests on: other numbers of images, and in one step a process without any object."""
    batches = TrainBatches(np.ones(len(OBJECTS)), BATCH // 2, seed=SEED)
    shares = [
        [batch[rank::2] for rank in (0, 1)] for epoch in range(EPOCHS) for batch in batches.global_batches(epoch, 2)
    ]
    assert [[len(share) for share in step] for step in shares] == [[2, 1]] * 3
    counts = [[sum(len(OBJECTS[image]) for image in share) for share in step] for step in shares]
    assert [7, 0] in counts
    assert any(0 not in step for step in counts)


@pytest.mark.parametrize("head", HEADS)
def test_two_processes_learn_as_one(two_processes: Path, head: str) -> None:
    """The same images, the same weights after three steps; not so where each process divides by what it has itself."""
    before, alone = learnt(two_processes / "data", head, 1)
    change = torch.cat([(alone[name] - before[name]).flatten() for name in before])
    assert change.abs().max() > 1e-3

    def distance(name: str) -> float:
        together = torch.load(two_processes / name, weights_only=True)
        apart = torch.cat([(alone[key] - together[key]).flatten() for key in before])
        return float(apart.norm() / change.norm())

    assert distance(f"{head}_0.pt") < 1e-4
    assert distance(f"{head}_1.pt") < 1e-4
    assert distance(f"{head}_process_0.pt") > 0.05


def test_two_processes_learn_as_one_from_the_data_module_that_users_have(two_processes: Path, tmp_path: Path) -> None:
    """The same images and augmentation in the same steps, accumulated; and the same average of the weights."""
    alone = learnt_from_the_generated_data(tmp_path, 1)
    for rank in (0, 1):
        together = torch.load(two_processes / f"generated_{rank}.pt", weights_only=True)
        assert together.keys() == alone.keys()
        apart = max(float((together[name] - alone[name]).abs().max()) for name in alone)
        assert apart < 1e-6
    moved = [
        name for name in alone if name.startswith("trained.") and not alone[name].equal(alone[f"average.{name[8:]}"])
    ]
    assert len(moved) > 20
