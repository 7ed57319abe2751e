from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from quadrants import CATEGORIES, Fit, Quadrants, make_module  # type: ignore[import-not-found]  # pytest's path

import detfuse
from detfuse.errors import UserError
from detfuse.structures import Categories
from detfuse.training.checkpoint import AtomicCheckpointIO, Checkpoints


class Scores(pl.Callback):
    """Gives each epoch the score it is told."""

    def __init__(self, scores: list[float], of_class: str | None = None) -> None:
        self.scores = scores
        self.of_class = of_class

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        metrics = pl_module.metrics
        values, name = (metrics.stats, "mAP") if self.of_class is None else (metrics.per_class[self.of_class], "APs")
        values[name] = self.scores[trainer.current_epoch]


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def test_checkpoints_are_plain_containers_with_all_that_evaluation_needs(fit: Fit, tmp_path: Path) -> None:
    module, _ = fit(max_epochs=1)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    stored = load(tmp_path / "checkpoints" / "last.ckpt")
    assert stored["detfuse"] == {
        "version": detfuse.__version__,
        "config": {"neck": {"_target_": "tiny", "levels": [3, 4]}, "seed": 0},
        "categories": CATEGORIES.as_dict(),
        "ema": None,
    }
    assert all(key.startswith("detector.") for key in stored["state_dict"])
    weights = {key.removeprefix("detector."): value for key, value in stored["state_dict"].items()}
    module.detector.load_state_dict(weights)


@pytest.mark.parametrize(
    ("scores", "best", "score"),
    [
        ([0.2, 0.4, 0.3], 1, 0.4),
        ([0.4, 0.4, 0.3], 0, 0.4),
        ([-1.0, -1.0, -1.0], 2, None),
        ([-1.0, 0.0, -1.0], 1, 0.0),
        ([0.1, -1.0, -1.0], 0, 0.1),
    ],
)
def test_best_is_the_highest_score_and_the_latest_epoch_where_it_is_undefined(
    fit: Fit, tmp_path: Path, scores: list[float], best: int, score: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints()
    fit(callbacks=[Scores(scores), checkpoints], max_epochs=3)
    assert load(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == best
    assert load(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 2
    assert (checkpoints.best_epoch, checkpoints.best_score) == (best, score)
    said = f"best.ckpt is epoch {best + 1}" if score is not None else "the latest epoch (3): val mAP was undefined"
    assert said in capsys.readouterr().out


def test_best_is_decided_by_any_number_that_there_is(fit: Fit, tmp_path: Path) -> None:
    checkpoints = Checkpoints(metric="APs/dog")
    fit(callbacks=[Scores([0.2, 0.4, 0.3], of_class="dog"), checkpoints], max_epochs=3)
    assert load(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 1
    assert checkpoints.best_meaning() == "best.ckpt is epoch 2: the highest val APs/dog, 0.4000"


@pytest.mark.parametrize("metric", ["APs/cow", "AP/", "accuracy", "mAP@300"])
def test_a_number_that_there_is_not_is_told_before_training(fit: Fit, tmp_path: Path, metric: str) -> None:
    with pytest.raises(UserError, match=rf"callbacks\.checkpoints\.metric={metric}: .* there are mAP, AP50, .*AP/cat"):
        fit(callbacks=[Checkpoints(metric=metric)], max_epochs=1)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_validation_set_without_ground_truth_is_undefined_and_keeps_the_latest(fit: Fit, tmp_path: Path) -> None:
    module, _ = fit(Quadrants(annotated=False))
    assert module.metrics is not None
    assert module.metrics.stats["mAP"] == -1
    assert load(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 1


def test_an_epoch_without_validation_is_not_scored_by_the_last_one(fit: Fit, tmp_path: Path) -> None:
    fit(callbacks=[Scores([-1, 0.4, -1, 0.5]), Checkpoints()], max_epochs=3, check_val_every_n_epoch=2)
    assert load(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 1


def test_last_is_written_as_often_as_asked_and_at_the_end(fit: Fit, tmp_path: Path) -> None:
    seen: list[int] = []
    last = tmp_path / "checkpoints" / "last.ckpt"

    class Look(Checkpoints):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            seen.append(load(last)["epoch"] if last.is_file() else -1)

    fit(callbacks=[Look(every_n_epochs=2)], max_epochs=5)
    assert seen == [-1, 1, 1, 3, 4]


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(fit: Fit, tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.should_stop = True

    whole, _ = fit(max_epochs=3)
    fit(callbacks=[Scores([0.75, 0, 0]), Stop(), Checkpoints()], max_epochs=3)
    last, checkpoints = tmp_path / "checkpoints" / "last.ckpt", Checkpoints()
    assert load(last)["global_step"] == 4
    resumed, trainer = fit(
        callbacks=[Scores([0, 0.5, 0.5]), checkpoints], max_epochs=3, ckpt_path=last, module=make_module(Quadrants())
    )
    assert trainer.global_step == 12
    for key, value in whole.detector.state_dict().items():
        assert torch.equal(value, resumed.detector.state_dict()[key]), key
    assert (checkpoints.best_epoch, checkpoints.best_score) == (0, 0.75)
    assert load(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 0


def test_a_checkpoint_of_other_categories_is_refused(fit: Fit, tmp_path: Path) -> None:
    fit(max_epochs=1)
    module = make_module(Quadrants())
    module.categories = Categories((3, 7), ("cat", "cow"))
    with pytest.raises(ValueError, match=r"trained on the categories cat, dog .*the data set has cat, cow"):
        fit(module=module, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", max_epochs=2)


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    class Unwritable:
        def __reduce__(self) -> Any:
            raise OSError("no space left on device")

    target = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, target)
    with pytest.raises(OSError, match="no space left"):
        writer.save_checkpoint({"epoch": 2, "x": Unwritable()}, target)
    assert writer.load_checkpoint(target) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_told_in_a_line_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """The system takes no more of a file, in the middle of it."""
    target, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, target)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # which else ends the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(
            UserError, match=r"last\.ckpt: could not be written: file too large; the checkpoint .* is whole"
        ):
            writer.save_checkpoint({"epoch": 2, "x": torch.zeros(100_000)}, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert writer.load_checkpoint(target) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_fast_dev_run_writes_nothing(fit: Fit, tmp_path: Path) -> None:
    module, _ = fit(callbacks=[Checkpoints()], fast_dev_run=True)
    assert module.metrics is not None
    assert not list(tmp_path.iterdir())
