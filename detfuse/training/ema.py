"""Exponential moving average of the weights.

Lightning's ``EMAWeightAveraging`` (2.6) was tried in its place and does not serve: it has no warm-up, averages the norm
statistics too, copies the whole module with the ground truth that judges it, and puts the average where a checkpoint
has the trained weights: today's would begin their average anew, and one written within a validation would have the two
exchanged. Once all that is overridden, a copy and a counter are left of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detfuse.ranges import FractionBelowOne, Range, checked

_Tensors = tuple[Tensor, ...] | list[Tensor]


@checked
class ExponentialMovingAverage(pl.Callback):
    """Validates and stores an average of the weights beside those that are trained.

    After each optimizer step ``average = d * average + (1 - d) * weights``. The decay warms up,
    ``d = min(decay, (1 + n) / (warmup + n))`` after ``n`` updates, so that a short run does not average in its random
    start. Buffers (norm statistics) are copied. The average stands in for the weights while a validation inside
    training runs, and is stored as ``checkpoint["detfuse"]["ema"]``, a state dict of the detector.

    Args:
        decay: weight of the past, in 0..1.
        warmup: how slowly the decay reaches its value; 1 means no warm-up.
    """

    def __init__(self, *, decay: FractionBelowOne = 0.999, warmup: Annotated[float, Range(at_least=1)] = 10.0) -> None:
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._last_step = 0
        self._average: AveragedModel | None = None
        self._restored: dict[str, Tensor] | None = None
        self._swapped = False

    def decay_after(self, updates: int) -> float:
        """Decay that the update number ``updates`` (from 0) uses."""
        return min(self.decay, (1 + updates) / (self.warmup + updates))

    @property
    def average(self) -> nn.Module | None:
        """The averaged detector; None before training started."""
        return None if self._average is None else self._average.module

    def _blend(self, average: _Tensors, weights: _Tensors, num_averaged: Tensor | int) -> None:
        blend = get_ema_multi_avg_fn(self.decay_after(self.updates))  # type: ignore[no-untyped-call]  # torch's
        blend(average, weights, num_averaged)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the detector, which is on its device and has its weights by now."""
        self._average = AveragedModel(_detector(pl_module), multi_avg_fn=self._blend)
        self._average.requires_grad_(False)
        if self._restored is not None:
            self._average.module.load_state_dict(self._restored)
            self._restored = None
        self._average.n_averaged.fill_(self.updates)  # 0: the first update copies the weights

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from the step that the run goes on at, which Lightning restores after ``on_fit_start``."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average, once per optimizer step (not per accumulated batch)."""
        if trainer.global_step > self._last_step:
            assert self._average is not None
            self._average.update_parameters(_detector(pl_module))
            self.updates += 1
            self._last_step = trainer.global_step

    def _swap(self, pl_module: pl.LightningModule) -> None:
        """Exchange the storage of weights and average: nothing is computed, so nothing is rounded."""
        assert self.average is not None
        for weight, average in zip(_detector(pl_module).parameters(), self.average.parameters(), strict=True):
            weight.data, average.data = average.data, weight.data
        self._swapped = not self._swapped

    @contextmanager
    def in_place(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """Within the context the average stands in for the weights; buffers that change in it become its own."""
        assert self.average is not None
        self._swap(pl_module)
        try:
            yield
        finally:
            self._swap(pl_module)
            for own, changed in zip(self.average.buffers(), _detector(pl_module).buffers(), strict=True):
                own.copy_(changed)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in place, if this validation is part of training."""
        if trainer.state.fn == "fit" and self.updates:
            self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the trained weights back."""
        if self._swapped:
            self._swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Put the trained weights back when validation was interrupted."""
        if self._swapped:
            self._swap(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Number of updates; the average itself is in ``checkpoint["detfuse"]``."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.updates = state_dict["updates"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average."""
        average = self.average
        if average is None or not self.updates:
            return
        stored = checkpoint.setdefault("detfuse", {})
        stored["ema"] = average.state_dict()
        if self._swapped:  # saved in the middle of a validation: the average is in the detector
            stored["ema"] = _detector(pl_module).state_dict()
            trained = {f"detector.{key}": value for key, value in average.state_dict().items()}
            checkpoint["state_dict"].update(trained)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the stored average until the detector is on its device."""
        self._restored = checkpoint["detfuse"]["ema"]


def _detector(pl_module: pl.LightningModule) -> nn.Module:
    detector = pl_module.detector
    assert isinstance(detector, nn.Module)
    return detector
