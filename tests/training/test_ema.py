from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from quadrants import Fit, Quadrants, make_module  # type: ignore[import-not-found]  # pytest puts this folder on the path
from torch import Tensor

from detfuse.training.checkpoint import Checkpoints
from detfuse.training.ema import ExponentialMovingAverage


class Watch(pl.Callback):
    """Copies the detector's weights after each step, in each validation and after it."""

    def __init__(self) -> None:
        self.trained: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []

    @staticmethod
    def _copy(module: Any) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in module.detector.state_dict().items()}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.trained.append(self._copy(pl_module))

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.validated.append(self._copy(pl_module))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.after.append(self._copy(pl_module))


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


def test_the_average_is_the_formula_and_the_trained_weights_come_back_exactly(fit: Fit, tmp_path: Path) -> None:
    watch, ema = Watch(), ExponentialMovingAverage(decay=0.5, warmup=4.0)
    fit(callbacks=[watch, ema, Checkpoints()], max_epochs=2)
    assert ema.updates == len(watch.trained) == 8
    assert [ema.decay_after(n) for n in range(4)] == [0.25, 0.4, 0.5, 0.5]
    key = "neck.fuse.weight"
    average = watch.trained[0][key]
    for n, weights in enumerate(watch.trained[1:], start=1):
        decay = ema.decay_after(n)
        average = decay * average + (1 - decay) * weights[key]
    torch.testing.assert_close(watch.validated[-1][key], average)
    assert not torch.equal(watch.validated[-1][key], watch.trained[-1][key])
    assert torch.equal(
        watch.validated[-1]["backbone.norm.running_mean"], watch.trained[-1]["backbone.norm.running_mean"]
    )
    assert_same(watch.after[-1], watch.trained[-1])
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert_same(stored["detfuse"]["ema"], watch.validated[-1])
    assert_same({k.removeprefix("detector."): v for k, v in stored["state_dict"].items()}, watch.trained[-1])


def test_averaging_does_not_change_what_is_trained(fit: Fit) -> None:
    plain, _ = fit(callbacks=[])
    averaged, _ = fit(callbacks=[ExponentialMovingAverage(decay=0.9)])
    assert_same(plain.detector.state_dict(), averaged.detector.state_dict())


def test_a_resumed_average_equals_the_uninterrupted_one(fit: Fit, tmp_path: Path) -> None:
    def run(epochs: int, **options: Any) -> ExponentialMovingAverage:
        ema = ExponentialMovingAverage(decay=0.9)
        data = Quadrants()
        fit(data, make_module(data), callbacks=[ema, Checkpoints()], max_epochs=epochs, **options)
        return ema

    # the schedule depends on the run's length, so both are runs of two epochs: one stops after its first
    whole = run(2)

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.should_stop = True

    fit(callbacks=[ExponentialMovingAverage(decay=0.9), Stop(), Checkpoints()], max_epochs=2)
    resumed = run(2, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert whole.average is not None
    assert resumed.average is not None
    assert resumed.updates == whole.updates == 8
    assert_same(whole.average.state_dict(), resumed.average.state_dict())


def test_a_checkpoint_saved_within_a_validation_has_the_right_weights_in_each_place(fit: Fit, tmp_path: Path) -> None:
    class Save(pl.Callback):
        def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            trainer.save_checkpoint(tmp_path / "within.ckpt", weights_only=False)

    watch = Watch()
    fit(callbacks=[watch, ExponentialMovingAverage(decay=0.9), Save()], max_epochs=1)
    stored = torch.load(tmp_path / "within.ckpt", weights_only=True)
    assert_same(stored["detfuse"]["ema"], watch.validated[-1])
    assert_same({k.removeprefix("detector."): v for k, v in stored["state_dict"].items()}, watch.trained[-1])


def test_impossible_decays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"decay must lie in 0\.\.1"):
        ExponentialMovingAverage(decay=1.0)
    with pytest.raises(ValueError, match="warmup must be at least 1"):
        ExponentialMovingAverage(warmup=0.0)
