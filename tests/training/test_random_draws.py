"""Random draws of a step depend on the seed and the step alone, so that arms with different draws stay paired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from quadrants import Fit, Quadrants, make_module  # type: ignore[import-not-found]  # pytest's path
from torch import Tensor, nn

from detfuse.training.checkpoint import Checkpoints


class Noisy(nn.Module):
    """A neck that draws ``count`` random numbers per map, and shows the first of each step."""

    def __init__(self, neck: nn.Module, count: int) -> None:
        super().__init__()
        self.neck = neck
        self.count = count
        self.seen: list[float] = []
        self.in_spec = self.out_spec = neck.out_spec

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        if self.training:
            draws = torch.rand(self.count)
            self.seen.append(draws[0].item())
            features = [feature * (0.5 + draws.mean()) for feature in features]
        fused: list[Tensor] = self.neck(features)
        return fused


def noisy(count: int, seed: int = 0) -> Any:
    module = make_module(Quadrants())
    module.detector.neck = Noisy(module.detector.neck, count)
    module.config = {**module.config, "seed": seed}
    return module


def test_detectors_that_draw_differently_often_get_the_same_numbers_in_every_step(fit: Fit) -> None:
    few, many, other = noisy(1), noisy(1000), noisy(1, seed=1)
    for module in (few, many, other):
        fit(module=module, callbacks=[], max_epochs=2)
    assert len(few.detector.neck.seen) == 8
    assert len(set(few.detector.neck.seen)) == 8
    assert many.detector.neck.seen == few.detector.neck.seen
    assert not set(other.detector.neck.seen) & set(few.detector.neck.seen)


@pytest.mark.parametrize("draws_before", [0, 17])
def test_a_resumed_run_draws_as_one_that_was_never_stopped(fit: Fit, tmp_path: Path, draws_before: int) -> None:
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.should_stop = True

    whole = noisy(3)
    fit(module=whole, callbacks=[], max_epochs=2)
    fit(module=noisy(3), callbacks=[Stop(), Checkpoints()], max_epochs=2)
    resumed = noisy(3)
    torch.rand(draws_before)  # another process has drawn other numbers before it resumes
    fit(module=resumed, callbacks=[Checkpoints()], ckpt_path=tmp_path / "checkpoints" / "last.ckpt", max_epochs=2)
    assert resumed.detector.neck.seen == whole.detector.neck.seen[4:]
    for key, value in whole.detector.state_dict().items():
        assert torch.equal(value, resumed.detector.state_dict()[key]), key
