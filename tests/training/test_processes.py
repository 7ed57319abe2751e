"""A process of two dies, or ends for a reason of its own: the other one tells, and ends too."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch.distributed as dist
from forks import in_processes  # type: ignore[import-not-found]  # likewise
from quadrants import Quadrants, make_module  # type: ignore[import-not-found]  # pytest puts this folder on the path
from torch.utils.data import DataLoader, Dataset

from detfuse.errors import explained
from detfuse.training.processes import Companions, LostProcessError
from detfuse.training.trainer import make_trainer

LIMIT = 10  # seconds


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def broken() -> None:
    raise ValueError("a reason of its own")


class Ends(pl.Callback):
    """Ends its process at a hook."""

    def __init__(self, hook: str, how: Any) -> None:
        setattr(self, hook, lambda *args, **kwargs: how())


def trained(folder: Path, hook: str, how: Any, rank: int) -> None:
    callbacks = [Ends(hook, how)] if rank else []
    trainer = make_trainer(folder, callbacks, [], accelerator="cpu", max_epochs=2, devices=2, strategy="ddp")
    data = Quadrants()
    began = time.monotonic()
    try:
        trainer.fit(make_module(data), datamodule=data)
    except LostProcessError as error:
        assert time.monotonic() - began < LIMIT
        (folder / "told").write_text(str(error))
        raise


@pytest.mark.parametrize(
    ("hook", "how", "code"),
    [
        ("on_train_batch_start", killed, -signal.SIGKILL),
        ("on_validation_epoch_start", killed, -signal.SIGKILL),
        ("on_train_epoch_end", broken, 1),
    ],
)
def test_what_is_left_of_a_run_ends_and_tells(tmp_path: Path, hook: str, how: Any, code: int) -> None:
    assert in_processes(2, partial(trained, tmp_path, hook, how), tmp_path) == [1, code]
    told = (tmp_path / "told").read_text()
    assert told.startswith("rank 1 (pid ")
    assert "has ended" in told
    assert "goes on from its last checkpoint by resume=true" in told


def together(folder: Path, rank: int, *, sleeps: float, dies: bool) -> None:
    dist.init_process_group("gloo")
    companions = Companions(patience=0.3)
    with companions.watched():
        companions.meet()
        if rank == 0:
            time.sleep(sleeps)
        elif dies:
            killed()


def test_one_that_waits_for_the_dead_is_ended(tmp_path: Path) -> None:
    """As in a kernel of NCCL, where no error comes."""
    assert in_processes(2, partial(together, tmp_path, sleeps=60, dies=True), tmp_path) == [1, -signal.SIGKILL]
    told = (tmp_path / "rank_0.err").read_text()
    assert told.startswith("error: rank 1 (pid ")
    assert "Traceback" not in told


def test_one_that_has_finished_is_not_missed(tmp_path: Path) -> None:
    assert in_processes(2, partial(together, tmp_path, sleeps=0.1, dies=False), tmp_path) == [0, 0]
    assert (tmp_path / "rank_0.err").read_text() == ""


class Deadly(Dataset[int]):
    """Kills whoever reads its second part."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index > 1:
            killed()
        return index


def read(folder: Path, rank: int) -> None:
    loader: DataLoader[int] = DataLoader(Deadly(), num_workers=1)
    try:
        list(loader)
    except (RuntimeError, OSError, EOFError) as error:  # as torch sees it, or while it was handing something over
        (folder / "told").write_text(str(explained(error)))


def test_a_data_worker_that_is_killed_is_told_with_what_to_do(tmp_path: Path) -> None:
    assert in_processes(1, partial(read, tmp_path), tmp_path) == [0]
    told = (tmp_path / "told").read_text()
    assert told.startswith("a process that reads the data ended: ")
    assert "Fewer data.loader.num_workers" in told
