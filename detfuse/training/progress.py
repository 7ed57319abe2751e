"""Progress of a run: a bar in a terminal, one line per epoch everywhere."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from detfuse.ranges import NonNegativeFloat, checked
from detfuse.words import clock

_RECENT = 100  # batches over which speed is averaged


@checked
class ProgressReport(pl.Callback):
    """Shows epoch, step, loss, images per second and the time left for the whole run, validations included.

    Each epoch ends with one line. In a terminal a bar lives below these lines; elsewhere (a file, a job's log) an epoch
    that takes long adds a line from time to time.

    Args:
        line_every: seconds between lines within an epoch where there is no terminal; 0 for none.
    """

    refresh_per_second = 4.0  # of the bar

    def __init__(self, *, line_every: NonNegativeFloat = 60.0) -> None:
        self.line_every = line_every
        self.console = Console(highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._durations: deque[float] = deque(maxlen=_RECENT)
        self._images: deque[int] = deque(maxlen=_RECENT)
        self._losses: list[float] = []
        self._batches_done = 0
        self._batches_total: float = 0
        self._tick = self._epoch_start = self._validation_start = self._line_time = 0.0
        self._validation_seconds: float | None = None

    # ---- hooks

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the work."""
        epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else math.inf
        by_epochs = epochs * trainer.num_training_batches
        by_steps = trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps >= 0 else math.inf
        self._batches_total = min(by_epochs, by_steps)
        seen = trainer.fit_loop.epoch_loop.batch_progress.current.ready  # of the epoch that a resumed run goes on with
        self._batches_done = int(trainer.current_epoch * trainer.num_training_batches) + seen
        self._line_time = self._epoch_start = self._tick = time.monotonic()
        if trainer.is_global_zero and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[status]}"),
                console=self.console,
                refresh_per_second=self.refresh_per_second,
                transient=True,
                expand=True,
            )
            self._task = self._bar.add_task("starting", total=1, status="")
            self._bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._losses.clear()
        self._epoch_start = self._tick = time.monotonic()
        self._show(f"epoch {self._epoch(trainer)}", 0, int(trainer.num_training_batches), "")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance."""
        now = time.monotonic()
        self._durations.append(now - self._tick)
        self._images.append(len(batch.images) * trainer.world_size)
        self._tick = now
        self._batches_done += 1
        # Lightning divides it, so that the gradients of accumulated batches add up to their mean.
        self._losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        total = int(trainer.num_training_batches)
        self._show(f"epoch {self._epoch(trainer)}", batch_idx + 1, total, self._status(trainer))
        if trainer.is_global_zero and self._bar is None and 0 < self.line_every <= now - self._line_time:
            self._line(f"epoch {self._epoch(trainer)}  batch {batch_idx + 1}/{total}  {self._status(trainer)}")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the validation's clock."""
        self._validation_start = time.monotonic()
        self._show(f"validation {self._epoch(trainer)}", 0, _count(trainer.num_val_batches), self._status(trainer))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Advance."""
        total = _count(trainer.num_val_batches)
        self._show(f"validation {self._epoch(trainer)}", batch_idx + 1, total, self._status(trainer))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the validation's clock."""
        self._validation_seconds = time.monotonic() - self._validation_start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's line."""
        if not trainer.is_global_zero:
            return
        seconds = time.monotonic() - self._epoch_start
        loss = sum(self._losses) / max(len(self._losses), 1)
        parts = [f"epoch {self._epoch(trainer)}", f"loss {loss:.4f}"]
        if trainer.fit_loop.epoch_loop.val_loop._has_run and (metrics := getattr(pl_module, "metrics", None)):
            parts.append(f"val mAP {_score(metrics.stats['mAP'])} AP50 {_score(metrics.stats['AP50'])}")
        parts += [f"{self._speed():.1f} img/s", f"{seconds:.1f} s/epoch", f"left {self._left(trainer)}"]
        self._line("  ".join(parts))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar, so that the message is readable."""
        self._stop()

    # ---- text

    def _show(self, description: str, completed: int, total: int, status: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=description, completed=completed, total=total, status=status)

    def _line(self, text: str) -> None:
        self._line_time = time.monotonic()
        self.console.print(text, markup=False)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _epoch(self, trainer: pl.Trainer) -> str:
        last = str(trainer.max_epochs) if (trainer.max_epochs or -1) >= 0 else "?"
        return f"{trainer.current_epoch + 1:>{len(last)}}/{last}"

    def _status(self, trainer: pl.Trainer) -> str:
        recent = self._losses[-_RECENT:]
        loss = sum(recent) / max(len(recent), 1)
        return f"step {trainer.global_step}  loss {loss:.4f}  {self._speed():.1f} img/s  left {self._left(trainer)}"

    def _speed(self) -> float:
        return sum(self._images) / max(sum(self._durations), 1e-9)

    def _left(self, trainer: pl.Trainer) -> str:
        if not self._durations or not math.isfinite(self._batches_total):
            return "?"
        per_batch = sum(self._durations) / len(self._durations)
        batches = max(self._batches_total - self._batches_done, 0)
        seconds = batches * per_batch
        every, per_epoch = trainer.check_val_every_n_epoch, trainer.num_training_batches
        if every and per_epoch:
            # Until one was timed, a validation batch is taken to cost half a training batch: no backward pass.
            each = self._validation_seconds or _count(trainer.num_val_batches) * per_batch / 2
            seconds += int(batches / per_epoch / every) * each
        return clock(seconds)


def _count(batches: list[int | float]) -> int:
    return int(sum(b for b in batches if math.isfinite(b)))


def _score(value: float) -> str:
    return "n/a" if value < 0 else f"{value:.3f}".removeprefix("0")
