"""Batch norm statistics of the weights that are scored, instead of an average over those that training passed by.

Title: Rethinking "Batch" in BatchNorm (Wu, Johnson), 2021
URL: https://arxiv.org/abs/2105.07576
Variant: PreciseBN of its section 3: after training, the statistics are the plain average over those of a number of
training batches, all under the same weights.
Deviations: the variance is the mean of the batches' variances, as the running average estimates it too; that of their
means is not added. It is done before every validation as well, so that a curve shows what a checkpoint scores.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch

from detfuse.ranges import PositiveInt, checked
from detfuse.training.ema import ExponentialMovingAverage


@checked
class PreciseNorm(pl.Callback):
    """Computes running statistics anew, before a validation and before the last checkpoint is written.

    A run that is too short for a norm's momentum is then scored by statistics that keep nothing of their start.
    Training does not see them and stays what it is; frozen norms are left alone. Where the weights are averaged
    (:class:`~detfuse.training.ema.ExponentialMovingAverage`, which must come first), the statistics are those of the
    average. Each process takes its own share of the images, as in training; those of the first are stored.

    Args:
        num_batches: training batches, augmented as in training; all that an epoch has if it has fewer.
    """

    def __init__(self, *, num_batches: PositiveInt = 200) -> None:
        self.num_batches = num_batches

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Where a validation or the end of the run comes next, compute them."""
        if not self._is_due(trainer, batch_idx):
            return
        averages = [c for c in trainer.callbacks if isinstance(c, ExponentialMovingAverage) and c.updates]  # type: ignore[attr-defined]  # Lightning's
        with averages[0].in_place(pl_module) if averages else nullcontext():
            self._compute(trainer, pl_module)

    def _is_due(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        ends_epoch = batch_idx + 1 >= trainer.num_training_batches
        epoch, every = trainer.current_epoch + 1, trainer.check_val_every_n_epoch
        ends_run = trainer.global_step == trainer.max_steps or (ends_epoch and epoch == trainer.max_epochs)
        return ends_run or (ends_epoch and every is not None and epoch % every == 0)

    @torch.no_grad()
    def _compute(self, trainer: pl.Trainer, pl_module: Any) -> None:
        norms = [m for m in pl_module.detector.modules() if getattr(m, "track_running_stats", False) and m.training]
        momenta = [norm.momentum for norm in norms]
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's plain average
            for batch in islice(trainer.datamodule.train_dataloader(), self.num_batches if norms else 0):  # type: ignore[attr-defined]  # Lightning's
                batch = trainer.strategy.batch_to_device(batch)
                with trainer.precision_plugin.forward_context():
                    pl_module.detector.loss(batch)  # not forward alone: a second stage has norms too
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
