from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from quadrants import Fit, Quadrants, make_module  # type: ignore[import-not-found]  # pytest puts this folder on the path
from torch import Tensor

from detfuse.detector import Detector
from detfuse.training.checkpoint import Checkpoints
from detfuse.training.ema import ExponentialMovingAverage
from detfuse.training.precise_norm import PreciseNorm

MEAN, VAR = "backbone.norm.running_mean", "backbone.norm.running_var"


def stored(folder: Path, *, average: bool = False) -> dict[str, Tensor]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    if average:
        ema: dict[str, Tensor] = content["detfuse"]["ema"]
        return ema
    return {key.removeprefix("detector."): value for key, value in content["state_dict"].items()}


def statistics(state: dict[str, Tensor], num_batches: int = 4) -> tuple[Tensor, Tensor]:
    """Mean and variance of what enters the norm, averaged over the training batches, under the stored weights."""
    detector: Detector = make_module(Quadrants()).detector
    detector.load_state_dict(state)
    means, variances = [], []
    with torch.no_grad():
        for batch in list(Quadrants().train_dataloader())[:num_batches]:
            maps = detector.backbone.conv(detector.normalize(batch.images, batch.image_sizes))
            means.append(maps.mean((0, 2, 3)))
            variances.append(maps.var((0, 2, 3)))
    return torch.stack(means).mean(0), torch.stack(variances).mean(0)


def assert_precise(state: dict[str, Tensor], num_batches: int = 4) -> None:
    mean, variance = statistics(state, num_batches)
    torch.testing.assert_close(state[MEAN], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state[VAR], variance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "given", [{"max_epochs": 2}, {"max_epochs": 3, "check_val_every_n_epoch": 2}, {"max_steps": 3}]
)
def test_what_is_stored_has_the_statistics_of_its_own_weights(fit: Fit, tmp_path: Path, given: dict[str, int]) -> None:
    module, trainer = fit(callbacks=[PreciseNorm(), Checkpoints()], **given)
    assert_precise(stored(tmp_path))
    assert module.detector.backbone.norm.momentum == 0.1
    if "check_val_every_n_epoch" not in given and "max_steps" not in given:
        assert module.metrics is not None
        before = dict(module.metrics.stats)
        trainer.validate(module, datamodule=Quadrants(), verbose=False)
        assert before == module.metrics.stats, "the curve's last point is the checkpoint's score"


def test_a_norm_of_a_second_stage_gets_statistics_too(fit: Fit, tmp_path: Path) -> None:
    module = make_module(Quadrants())
    head = module.detector.head
    head.second = torch.nn.BatchNorm2d(1)
    first = head.loss
    head.loss = lambda outputs, batch: first(
        outputs._replace(logits=head.second(outputs.logits[:, None] + 5.0)[:, 0]), batch
    )
    fit(module=module, callbacks=[PreciseNorm(), Checkpoints()], max_epochs=1)
    assert stored(tmp_path)["head.second.running_mean"] == pytest.approx(5.0, abs=1.0)


def test_training_does_not_notice(fit: Fit, tmp_path: Path) -> None:
    fit(callbacks=[Checkpoints()], max_epochs=2)
    plain = stored(tmp_path)
    fit(callbacks=[PreciseNorm(), Checkpoints()], max_epochs=2)
    precise = stored(tmp_path)
    assert not torch.allclose(plain[MEAN], precise[MEAN], rtol=0.01)
    for key in plain:
        assert "norm.running" in key or "num_batches" in key or torch.equal(plain[key], precise[key]), key


def test_fewer_batches_may_be_asked_for(fit: Fit, tmp_path: Path) -> None:
    fit(callbacks=[PreciseNorm(num_batches=1), Checkpoints()], max_epochs=1)
    assert_precise(stored(tmp_path), num_batches=1)
    with pytest.raises(ValueError, match="num_batches must be at least 1, got 0"):
        PreciseNorm(num_batches=0)


def test_averaged_weights_get_statistics_of_their_own(fit: Fit, tmp_path: Path) -> None:
    callbacks: list[pl.Callback] = [ExponentialMovingAverage(decay=0.9), PreciseNorm(), Checkpoints()]
    fit(callbacks=callbacks, max_epochs=3, check_val_every_n_epoch=2)
    average, trained = stored(tmp_path, average=True), stored(tmp_path)
    assert not torch.equal(average["neck.fuse.weight"], trained["neck.fuse.weight"])
    assert_precise(average)


@pytest.mark.filterwarnings("ignore:Found 1 module:UserWarning")  # Lightning's, of any frozen module
def test_frozen_norms_are_left_alone(fit: Fit, tmp_path: Path) -> None:
    data = Quadrants()
    module = make_module(data)
    norm = module.detector.backbone.norm
    norm.train = lambda mode=True: norm  # as the extractor's frozen stages
    norm.training = False
    norm.running_mean.fill_(0.25)
    fit(data=data, module=module, callbacks=[PreciseNorm(), Checkpoints()], max_epochs=1)
    assert torch.equal(stored(tmp_path)[MEAN], torch.full((8,), 0.25))
