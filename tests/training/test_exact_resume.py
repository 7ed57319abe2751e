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
from conftest import combine, make_detector  # type: ignore[import-not-found]  # pytest puts this folder on the path

from detfuse.data import Loader, SyntheticDataModule, Transforms
from detfuse.training.checkpoint import Checkpoints
from detfuse.training.datamodule import LightningData
from detfuse.training.ema import ExponentialMovingAverage
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
    every_n_steps: int | None = None,
    more: tuple[pl.Callback, ...] = (),
    **trainer: Any,
) -> dict[str, Any]:
    """Train on generated shapes with augmentation; what ``last.ckpt`` then holds."""
    transform = Transforms(short_side=32, long_side=None, flip=0.5, brightness=0.3)
    loader = Loader(batch_size=2, num_workers=workers)
    data = SyntheticDataModule(
        32, 0, root=str(root), num_train=11, num_val=2, image_size=32, max_size=20, transform=transform, loader=loader
    )
    data.prepare_data()
    data.setup("fit")
    optimizer, schedule = partial(adamw, lr=0.01, reference_batch=None), partial(cosine, warmup_steps=2)
    module = DetectionModule(make_detector(), combine, None, data.categories, {"seed": 0}, optimizer, schedule)
    callbacks = [*more, *([] if kill is None else [Kill(kill)]), Checkpoints(every_n_steps=every_n_steps)]
    settings = {"max_epochs": EPOCHS, "accelerator": "cpu", **trainer}
    try:
        make_trainer(folder, callbacks, [], **settings).fit(module, datamodule=LightningData(data), ckpt_path=resume)
    except KilledError:
        return {}
    stored: dict[str, Any] = torch.load(folder / LAST, weights_only=True)
    return stored


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


@pytest.mark.parametrize(("workers", "trainer"), [(0, {"max_steps": BATCHES * EPOCHS}), (2, {})])
def test_the_first_resumed_epoch_has_its_own_order(root: Path, tmp_path: Path, workers: int, trainer: Any) -> None:
    whole = run(root, tmp_path / "whole", **trainer)
    run(root, tmp_path / "cut", workers=workers, kill=2 * BATCHES, **trainer)
    assert_equal(run(root, tmp_path / "cut", workers=workers, resume=tmp_path / "cut" / LAST, **trainer), whole)


def test_a_run_killed_again_and_again_within_its_epochs_goes_on_at_the_batch(root: Path, tmp_path: Path) -> None:
    """With an average of the weights, and steps of two batches of which an epoch's last has one."""

    def again(folder: Path, **settings: Any) -> dict[str, Any]:
        average = ExponentialMovingAverage(decay=0.9)
        return run(root, folder, more=(average,), accumulate_grad_batches=2, every_n_steps=1, **settings)

    whole = again(tmp_path / "whole")
    cut = tmp_path / "cut" / LAST
    again(tmp_path / "cut", kill=3)
    seen = []
    for workers, kill in ((0, 3), (2, 2), (0, 4)):
        seen.append(torch.load(cut, weights_only=True)["global_step"])
        again(tmp_path / "cut", workers=workers, kill=kill, resume=cut)
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
    root: Path, tmp_path: Path, number: int, hook: str, after: int, step: int
) -> None:
    average = ExponentialMovingAverage(decay=0.9)
    whole = run(root, tmp_path / "whole", more=(average,))
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    with pytest.raises(Stopped) as stopped:
        run(root, tmp_path / "cut", more=(ExponentialMovingAverage(decay=0.9), Ask(number, hook, after)))
    assert stopped.value.code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
    cut = tmp_path / "cut" / LAST
    assert torch.load(cut, weights_only=True)["global_step"] == step
    assert_equal(run(root, tmp_path / "cut", more=(ExponentialMovingAverage(decay=0.9),), resume=cut), whole)
