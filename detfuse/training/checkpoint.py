"""``last.ckpt`` and ``best.ckpt``: when they are written, what *best* means, and never half a file after a kill."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from detfuse.errors import InputError, UserError
from detfuse.files.archive import read_archive
from detfuse.files.run_files import BEST, LAST
from detfuse.ranges import PositiveFloat, PositiveInt, checked
from detfuse.training.signals import Stopped, StopRequest


class UnwrittenCheckpointError(UserError, OSError):
    """A checkpoint that could not be written: the disk is full, or may not be written to."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, renames: the target is the old file or the new one, never a part.

    Reads with ``weights_only=True``, and compares checksums: a checkpoint is data and runs no code, and a damaged
    one is told instead of trained on.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint``; the folder is made if it does not exist.

        Raises:
            UnwrittenCheckpointError: if the system does not take it; what was at ``path`` still is.
        """
        target = Path(path)
        part = target.with_name(f".{target.name}.part")  # one name: what a killed run left is overwritten by the next
        try:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with part.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(target)
            finally:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
            _sync_folder(target.parent)
        except (OSError, RuntimeError) as error:
            raise _unwritten(target, error) from error

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a checkpoint, to the CPU.

        Raises:
            FileNotFoundError: if there is none at ``path``.
            ArchiveError: if it is damaged, or holds more than plain data.
        """
        loaded: dict[str, Any] = read_archive(Path(path), legacy=False)
        return loaded


def _unwritten(target: Path, error: Exception) -> Exception:
    """What kept a checkpoint from being written, in a line; the error itself, if it is not the system's.

    Where the file takes no more, torch raises an error of its own over the system's.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    if cause is None:
        return error
    reason = (cause.strerror or str(cause)).lower()
    left = (
        "the checkpoint that was there is whole, and resume= goes on from it"
        if target.is_file()
        else "there was none yet"
    )
    return UnwrittenCheckpointError(f"{target}: could not be written: {reason}; {left}")


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


def _largest(trainer: pl.Trainer, number: int) -> int:
    """The largest of the processes' numbers: they must write, and end, together."""
    if trainer.world_size == 1:
        return number
    together = trainer.strategy.reduce(torch.tensor(number, device=trainer.strategy.root_device), reduce_op="max")
    return int(together)


@checked
class Checkpoints(Checkpoint):
    """Writes ``<run folder>/checkpoints/last.ckpt`` and ``best.ckpt``.

    *Best* is the validated epoch with the highest ``val/<metric>``; of equals, the first. Where the metric is undefined
    (-1: the validation set has no ground truth for it) or nothing was validated, an epoch cannot be compared: as long
    as no epoch had a defined value, best is the latest epoch. :meth:`best_meaning` says which of the two it was.

    *Last* is written at the end of epochs; within them as often as asked; and where SIGTERM, SIGINT (Ctrl-C) or SIGUSR1
    ask the run to end, which it then does (:class:`~detfuse.training.signals.Stopped`). A run goes on from each of them
    as if it had never been stopped. With several processes a validation is finished first: they have different numbers
    of batches in it, and could not agree before.

    Args:
        metric: number that decides: any that the evaluation prints, or has of a class: ``APs``, ``AP50/dog``.
        every_n_epochs: how often ``last.ckpt`` is written; the last epoch always is.
        every_n_steps: also after so many optimizer steps, which are then all that a killed run can lose.
        every_minutes: also after so many minutes, likewise.
    """

    def __init__(
        self,
        *,
        metric: str = "mAP",
        every_n_epochs: PositiveInt = 1,
        every_n_steps: PositiveInt | None = None,
        every_minutes: PositiveFloat | None = None,
    ) -> None:
        self.metric = metric
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._stop = StopRequest()
        self._leaving = 0  # the signal that all processes know of
        self._saved_step = 0
        self._saved_time = time.monotonic()

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

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to listen to signals, and to count.

        Raises:
            ValueError: if the metric is none that the evaluation has.
        """
        if _is_dev_run(trainer):
            return
        self._require_metric(pl_module)
        if self.best_epoch is not None and not (Path(trainer.default_root_dir) / BEST).is_file():
            rank_zero_warn(
                f"{BEST} of epoch {self.best_epoch + 1} is gone: the best of the epochs from here on is kept"
            )
            self.best_score = self.best_epoch = None
        self._stop, self._leaving = StopRequest(), 0
        self._stop.listen()
        self._saved_step, self._saved_time = trainer.global_step, time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write where that is due within the epoch, which the last batch no longer is.

        After whole optimizer steps only: a checkpoint has no gradients.
        """
        if _is_dev_run(trainer) or trainer.is_last_batch or trainer.fit_loop._should_accumulate():
            return
        stop = _largest(trainer, self._stop.number)
        if stop or self._is_time(trainer):
            self._write_last(trainer)
        self._leaving = stop

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """End where that was agreed on after the last batch, whose metrics are logged by now."""
        if self._leaving:
            raise Stopped(self._leaving)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Once a run is only scored, all of it is saved."""
        if trainer.state.fn == "validate" and not _is_dev_run(trainer):
            self._stop.leave_at_once()

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """End within a validation, which then begins again; of one process only, see the class."""
        if self._stop.number and trainer.state.fn == "fit" and trainer.world_size == 1:
            self._write_last(trainer)
            raise Stopped(self._stop.number)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what this epoch deserves. Validation has run by now, and averaged weights are swapped back."""
        if _is_dev_run(trainer):
            return
        score = self._score(pl_module)  # of an epoch without validation: that of the last one, which cannot be higher
        is_best = self.best_score is None if score is None else self.best_score is None or score > self.best_score
        if is_best:
            self.best_score, self.best_epoch = score, trainer.current_epoch
            trainer.save_checkpoint(Path(trainer.default_root_dir) / BEST, weights_only=False)
        stop = _largest(trainer, self._stop.number)
        if stop or self._is_due(trainer) or self._is_time(trainer):
            self._write_last(trainer)
        if stop:
            raise Stopped(stop)

    def _write_last(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST, weights_only=False)
        self._saved_step, self._saved_time = trainer.global_step, time.monotonic()

    def _is_time(self, trainer: pl.Trainer) -> bool:
        """Whether so many steps or minutes have passed since ``last.ckpt`` was written; the same on every process."""
        if self.every_n_steps is not None and trainer.global_step - self._saved_step >= self.every_n_steps:
            return True
        if self.every_minutes is None:
            return False
        return bool(_largest(trainer, int(time.monotonic() - self._saved_time >= 60 * self.every_minutes)))

    def _require_metric(self, pl_module: pl.LightningModule) -> None:
        evaluator: Any = getattr(pl_module, "evaluator", None)
        if evaluator is not None:
            try:
                evaluator.require(self.metric)
            except InputError as error:
                raise InputError(f"callbacks.checkpoints.metric={self.metric}: {error}") from None

    def _score(self, pl_module: pl.LightningModule) -> float | None:
        """The deciding metric, None where undefined."""
        metrics: Any = pl_module.metrics
        if metrics is None:
            return None
        value = float(metrics.value(self.metric))
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
