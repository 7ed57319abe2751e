"""Training stops within the step at whatever is not finite, whatever else is on, and says where it is."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from quadrants import Fit, Quadrants, make_detector, make_module  # type: ignore[import-not-found]  # pytest's path
from torch import Tensor

from detfuse.structures import Batch
from detfuse.training.checkpoint import Checkpoints
from detfuse.training.ema import ExponentialMovingAverage
from detfuse.training.finite import NonFiniteLossError
from detfuse.training.optim import sgd
from detfuse.training.replay import replay
from detfuse.training.trainer import make_trainer

STEP = 5  # of 4 in each epoch: there is a checkpoint by then


def in_term(module: Any, value: float) -> None:
    plain = module._loss
    module._loss = lambda batch: {**(terms := plain(batch)), "loss_box": terms["loss_box"] * value}


def in_weights(module: Any, value: float) -> None:
    module.detector.neck.fuse.weight.data[0, 0] = value


def in_activations(module: Any, value: float) -> None:
    module.detector.neck.fuse.register_forward_hook(lambda _, given, output: output * value)


def in_gradient(module: Any, value: float) -> None:
    module.detector.neck.fuse.weight.register_hook(lambda gradient: gradient * value)


def in_buffer(module: Any, value: float) -> None:
    module.detector.backbone.norm.running_var[3] = value


class Plant(pl.Callback):
    """Breaks a part of the module before a step."""

    def __init__(self, plant: Any, value: float) -> None:
        self.plant, self.value = plant, value

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == STEP:
            self.plant(pl_module, self.value)


@pytest.mark.parametrize(("value", "clipping"), [(math.nan, None), (math.inf, 10.0)])
@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (in_term, r"loss_box = (nan|inf) {at}; finite: loss_cls.*The outputs of all layers are finite"),
        (in_weights, r"loss_cls = nan.* {at}\. Of the weights, neck\.fuse\.weight are not finite"),
        (
            in_activations,
            r"loss_cls = nan.* {at}\. The first layer whose output is not finite is neck\.fuse \(Conv2d\)",
        ),
        (in_gradient, r"norm of the gradient is (nan|inf) {at}, in neck\.fuse\.weight, though the loss is finite"),
        (in_buffer, r"backbone\.norm\.running_var became NaN or infinite {at}: nothing of it is stored"),
    ],
)
def test_the_step_its_images_and_the_layer_are_named(
    fit: Fit, tmp_path: Path, plant: Any, told: str, clipping: float | None, value: float
) -> None:
    module = make_module(Quadrants())
    told = told.replace("{at}", r"at step 5 \(epoch 2\), images 20, 30")
    with pytest.raises(NonFiniteLossError, match=told):
        fit(module=module, callbacks=[Plant(plant, value), Checkpoints()], gradient_clip_val=clipping)
    if plant is not in_weights:
        assert all(torch.isfinite(p).all() for p in module.parameters())
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 4


class Late(pl.Callback):
    """Breaks the average of the weights after the last step, where no loss shows it."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        average: Any = next(c for c in trainer.callbacks if isinstance(c, ExponentialMovingAverage))  # type: ignore[attr-defined]
        average.average.head.predict_logits.bias.data[0] = math.nan


def test_what_is_not_finite_is_never_stored(fit: Fit, tmp_path: Path) -> None:
    average = ExponentialMovingAverage(decay=0.9)
    with pytest.raises(NonFiniteLossError, match=r"average of head\.predict_logits\.bias became NaN"):
        fit(callbacks=[average, Late(), Checkpoints()])
    assert not list((tmp_path / "checkpoints").glob("*"))


class Overflow(pl.Callback):
    """Lets the gradient overflow in some steps."""

    def __init__(self, steps: range) -> None:
        self.steps = steps

    def on_after_backward(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step in self.steps:
            pl_module.detector.neck.fuse.weight.grad.fill_(math.inf)


def scaled(folder: Path, steps: range, scale: float) -> torch.amp.GradScaler:
    """Train with a loss scale, on the CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainer = make_trainer(folder, [Overflow(steps)], [], accelerator="cpu", max_epochs=2)
    trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)
    data = Quadrants()
    module = make_module(data)
    module._optimizer = partial(sgd, lr=0.1, reference_batch=None, fused=False)
    trainer.fit(module, datamodule=data)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    return scaler


def test_an_overflow_under_a_loss_scale_is_a_step_left_out_until_nothing_is_scaled(tmp_path: Path) -> None:
    assert scaled(tmp_path, range(2, 5), 1024.0).get_scale() == 128
    with pytest.raises(
        NonFiniteLossError, match=r"norm of the gradient is (nan|inf) at step 5 .*in neck\.fuse\.weight"
    ):
        scaled(tmp_path, range(2, 8), 8.0)


def test_the_step_is_replayed_from_what_was_written_of_it(fit: Fit, tmp_path: Path) -> None:
    module = make_module(Quadrants())
    with pytest.raises(NonFiniteLossError, match="debug=anomaly"):
        fit(module=module, callbacks=[Plant(in_activations, math.inf), Checkpoints()])
    again = make_detector(seed=1)

    def loss(batch: Batch) -> dict[str, Tensor]:
        return again.loss(batch)

    assert list(replay(tmp_path, again, loss, torch.enable_grad))[1].startswith("The outputs")
    again.neck.fuse.register_forward_hook(lambda _, given, output: output * math.inf)
    lines = list(replay(tmp_path, again, loss, torch.enable_grad))
    assert lines[0] == "step 5 (epoch 2), the last batch of the step: images [20, 30]"
    assert lines[1] == "The first layer whose output is not finite is neck.fuse (Conv2d)"
    assert "Backward" in lines[3]
    for name, value in again.state_dict().items():
        assert torch.equal(value, module.detector.state_dict()[name]) or "norm" in name
