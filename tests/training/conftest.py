"""One thread per test, and a fit of the tiny detector of quadrants.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from quadrants import Fit, Quadrants, make_module  # type: ignore[import-not-found]  # pytest's path

from detfuse.training.checkpoint import Checkpoints
from detfuse.training.module import DetectionModule
from detfuse.training.trainer import make_trainer


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    def run(
        data: Quadrants | None = None,
        module: DetectionModule | None = None,
        callbacks: list[pl.Callback] | None = None,
        loggers: list[Any] | None = None,
        ckpt_path: Path | None = None,
        **options: Any,
    ) -> tuple[DetectionModule, pl.Trainer]:
        data = data or Quadrants()
        module = module or make_module(data)
        callbacks = [Checkpoints()] if callbacks is None else callbacks
        settings = {"max_epochs": 2, "accelerator": "cpu", **options}
        trainer = make_trainer(tmp_path, callbacks, loggers or [], **settings)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module, trainer

    return run
