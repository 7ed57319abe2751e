"""A run that was stopped, wherever it was, and goes on equals the run that was never stopped, bit for bit."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from quadrants import combine, make_detector  # type: ignore[import-not-found]  # pytest puts this folder on the path

from detfuse.data import Loader, SyntheticDataModule, Transforms
from detfuse.training.checkpoint import Checkpoints
from detfuse.training.datamodule import LightningData
from detfuse.training.ema import ExponentialMovingAverage
from detfuse.training.loggers import MetricsCsv
from detfuse.training.module import DetectionModule
from detfuse.training.optim import adamw, cosine
from detfuse.training.signals import Stopped
from detfuse.training.trainer import make_trainer

BATCHES, EPOCHS = 5, 3
LAST, BEST = Path("checkpoints/last.ckpt"), Path("checkpoints/best.ckpt")

pytestmark = pytest.mark.filterwarnings("ignore:.*excessive worker creation")  # torch's advice on few cores


class KilledError(Exception):
    """What a kill is here: the run ends in the middle of a hook, and its objects are gone."""


class Kill(pl.Callback):
    """Ends the run after so many batches."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_train_batch_start(self, *args: Any) -> None:
        if self.left == 0:
            raise KilledError
        self.left -= 1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


def run(
    root: Path,
    folder: Path,
    *,
    workers: int = 0,
    kill: int | None = None,
    resume: Path | None = None,
    often: dict[str, Any] | None = None,
    more: tuple[pl.Callback, ...] = (),
    **trainer: Any,
) -> dict[str, Any]:
    """Train on generated shapes, augmented, with an average of the weights; what it then has written."""
    average = ExponentialMovingAverage(decay=0.9)
    callbacks = [average, *more, *([] if kill is None else [Kill(kill)]), Checkpoints(**(often or {}))]
    made, module, data = parts(root, folder, callbacks, workers=workers, **trainer)
    try:
        made.fit(module, datamodule=data, ckpt_path=resume)
    except KilledError:
        return {}
    return {"last": torch.load(folder / LAST, weights_only=True), "csv": (folder / "metrics.csv").read_text()}


def parts(
    root: Path, folder: Path, callbacks: list[pl.Callback], *, workers: int = 0, **trainer: Any
) -> tuple[pl.Trainer, DetectionModule, LightningData]:
    transform = Transforms(short_side=32, long_side=None, flip=0.5, brightness=0.3)
    loader = Loader(batch_size=2, num_workers=workers)
    data = SyntheticDataModule(
        32, 0, root=str(root), num_train=11, num_val=2, image_size=32, max_size=20, transform=transform, loader=loader
    )
    data.prepare_data()
    data.setup("fit")
    optimizer, schedule = partial(adamw, lr=0.01, reference_batch=None), partial(cosine, warmup_steps=2)
    module = DetectionModule(make_detector(), combine, None, data.categories, {"seed": 0}, optimizer, schedule)
    settings = {"max_epochs": EPOCHS, "accelerator": "cpu", "log_every_n_steps": 1, **trainer}
    return make_trainer(folder, callbacks, [MetricsCsv(folder)], **settings), module, LightningData(data)


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, f"{where}: {a} and {b}"


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that was never stopped."""
    return run(root, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(("workers", "trainer"), [(0, {"max_steps": BATCHES * EPOCHS}), (2, {})])
def test_the_first_resumed_epoch_has_its_own_order(
    root: Path, whole: dict[str, Any], tmp_path: Path, workers: int, trainer: Any
) -> None:
    run(root, tmp_path, workers=workers, kill=2 * BATCHES, **trainer)
    assert_equal(run(root, tmp_path, workers=workers, resume=tmp_path / LAST, **trainer), whole)


def test_a_run_killed_again_and_again_within_its_epochs_goes_on_at_the_batch(root: Path, tmp_path: Path) -> None:
    """In steps of two batches, of which an epoch's last has one."""
    again = partial(run, root, accumulate_grad_batches=2)
    whole = again(tmp_path / "whole")
    cut = tmp_path / "cut" / LAST
    again(tmp_path / "cut", kill=3, often={"every_n_steps": 1})
    seen = []
    for workers, kill in ((0, 3), (2, 2), (0, 4)):
        seen.append(torch.load(cut, weights_only=True)["global_step"])
        again(tmp_path / "cut", workers=workers, kill=kill, resume=cut, often={"every_minutes": 1e-9})
    assert seen == [1, 3, 4]
    assert_equal(again(tmp_path / "cut", resume=cut), whole)


class Ask(pl.Callback):
    """Sends this process a signal in the middle of a hook."""

    def __init__(self, number: int, hook: str, after: int) -> None:
        self.left = after

        def ask(*args: Any, **kwargs: Any) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), number)

        setattr(self, hook, ask)


@pytest.mark.parametrize(
    ("number", "hook", "after", "step"),
    [
        (signal.SIGTERM, "on_train_batch_start", BATCHES + 2, BATCHES + 2),
        (signal.SIGINT, "on_train_batch_start", 2 * BATCHES, 2 * BATCHES),  # an epoch's last batch
        (signal.SIGUSR1, "on_validation_batch_start", 3, 3 * BATCHES),  # the last validation
    ],
)
def test_a_signal_saves_where_the_run_is_and_ends_it(
    root: Path, whole: dict[str, Any], tmp_path: Path, number: int, hook: str, after: int, step: int
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    with pytest.raises(Stopped) as stopped:
        run(root, tmp_path, more=(Ask(number, hook, after),))
    assert stopped.value.code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == step
    assert_equal(run(root, tmp_path, resume=tmp_path / LAST), whole)


def test_a_signal_ends_a_scoring_at_once(root: Path, tmp_path: Path) -> None:
    """What was learnt is saved by then."""
    checkpoints = Checkpoints()
    trainer, module, data = parts(root, tmp_path, [Ask(signal.SIGTERM, "on_validation_batch_start", 1), checkpoints])
    with pytest.raises(Stopped) as stopped:
        trainer.validate(module, datamodule=data, verbose=False)
    assert stopped.value.code == 143
