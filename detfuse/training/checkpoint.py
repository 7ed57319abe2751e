"""``last.ckpt`` and ``best.ckpt``: when they are written, what *best* means, and never half a file after a kill."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only

from detfuse.files.run_files import BEST, LAST
from detfuse.ranges import PositiveInt, checked

Metric = Literal["mAP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, renames: the target is the old file or the new one, never a part.

    Reads with ``weights_only=True``: a checkpoint is data and runs no code.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint``; the folder is made if it does not exist."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")  # one name: what a killed run left is overwritten by the next
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            FileNotFoundError: if there is none at ``path``.
        """
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return loaded


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can open folders (POSIX)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_dev_run(trainer: pl.Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))  # set by Lightning, but not declared


@checked
class Checkpoints(Checkpoint):
    """Writes ``<run folder>/checkpoints/last.ckpt`` and ``best.ckpt`` at the end of each epoch.

    *Best* is the validated epoch with the highest ``val/<metric>``; of equals, the first. Where the metric is undefined
    (-1: the validation set has no ground truth for it) or nothing was validated, an epoch cannot be compared: as long
    as no epoch had a defined value, best is the latest epoch. :meth:`best_meaning` says which of the two it was.

    Args:
        metric: metric that decides.
        every_n_epochs: how often ``last.ckpt`` is written; the last epoch always is.
    """

    def __init__(self, *, metric: Metric = "mAP", every_n_epochs: PositiveInt = 1) -> None:
        self.metric = metric
        self.every_n_epochs = every_n_epochs
        self.best_score: float | None = None
        self.best_epoch: int | None = None

    def best_meaning(self) -> str:
        """One line for people: which epoch ``best.ckpt`` is, and why."""
        if self.best_epoch is None:
            return "no checkpoint was written"
        if self.best_score is None:
            return (
                f"best.ckpt is the latest epoch ({self.best_epoch + 1}): val {self.metric} was undefined "
                "(no ground truth to score against, or no validation)"
            )
        return f"best.ckpt is epoch {self.best_epoch + 1}: the highest val {self.metric}, {self.best_score:.4f}"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what this epoch deserves. Validation has run by now, and averaged weights are swapped back."""
        if _is_dev_run(trainer):
            return
        score = self._score(pl_module)  # of an epoch without validation: that of the last one, which cannot be higher
        is_best = self.best_score is None if score is None else self.best_score is None or score > self.best_score
        if is_best:
            self.best_score, self.best_epoch = score, trainer.current_epoch
        folder = Path(trainer.default_root_dir)
        if is_best:
            trainer.save_checkpoint(folder / BEST, weights_only=False)
        if self._is_due(trainer):
            trainer.save_checkpoint(folder / LAST, weights_only=False)

    def _score(self, pl_module: pl.LightningModule) -> float | None:
        """The deciding metric, None where undefined."""
        metrics: Any = pl_module.metrics
        if metrics is None:
            return None
        value = float(metrics.stats[self.metric])
        return value if value >= 0 else None

    def _is_due(self, trainer: pl.Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        ends = epoch == trainer.max_epochs or trainer.global_step == trainer.max_steps or trainer.should_stop
        return ends or epoch % self.every_n_epochs == 0

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what best means here."""
        if not _is_dev_run(trainer):
            print(self.best_meaning(), flush=True)

    def state_dict(self) -> dict[str, Any]:
        """What has to survive a resume."""
        return {"metric": self.metric, "best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue, unless another metric decides now: scores of different metrics do not compare."""
        if state_dict["metric"] == self.metric:
            self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
