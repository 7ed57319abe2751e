"""Lightning's trainer as detfuse uses it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import Logger

from detfuse.ranges import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt, Range, checked
from detfuse.training.checkpoint import AtomicCheckpointIO
from detfuse.training.loops import use_own_loops
from detfuse.training.processes import watch_companions

Precision = Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true"]

_NOISE = (  # advice of Lightning that does not apply here, as the start of its message
    "The '.*_dataloader' does not have many workers",  # small data sets on few cores are fastest without
    "The number of training batches .* is smaller than the logging interval",  # the epoch's end is logged anyway
    "You're resuming from a checkpoint that ended before the epoch ended",  # ours goes on there: see PlacedFitLoop
    "`isinstance.treespec, LeafSpec.` is deprecated",  # Lightning's use of torch, not ours
)

_NOT_LIGHTNINGS: dict[str, Any] = {
    "enable_progress_bar": False,  # a callback of ours
    "enable_model_summary": False,  # the run folder's summary tells more
    "num_sanity_val_steps": 0,  # a score of untrained weights on two batches would be logged as a result
    "use_distributed_sampler": False,  # Lightning's pads the validation set with duplicates
}


@checked
def make_trainer(
    run_dir: str | os.PathLike[str],
    callbacks: Sequence[pl.Callback],
    loggers: Sequence[Logger],
    *,
    max_epochs: Annotated[int, Range(at_least=-1)] = 7,
    max_steps: Annotated[int, Range(at_least=-1)] = -1,
    accelerator: str = "auto",
    devices: Annotated[int, Range(at_least=-1)] | str | list[NonNegativeInt] = 1,
    num_nodes: PositiveInt = 1,
    strategy: str = "auto",
    precision: Precision = "32-true",
    gradient_clip_val: NonNegativeFloat | None = 10.0,
    accumulate_grad_batches: PositiveInt = 1,
    check_val_every_n_epoch: PositiveInt = 1,
    limit_train_batches: NonNegativeInt | Fraction = 1.0,
    limit_val_batches: NonNegativeInt | Fraction = 1.0,
    log_every_n_steps: NonNegativeInt = 10,
    fast_dev_run: bool | NonNegativeInt = False,
    deterministic: bool | Literal["warn"] = False,
    benchmark: bool = False,
    detect_anomaly: bool = False,
) -> pl.Trainer:
    """Make a trainer that is quiet, writes checkpoints atomically and leaves sampling to the data module.

    Args:
        run_dir: run folder; callbacks find it as ``trainer.default_root_dir``.
        callbacks: callbacks; without a checkpoint callback no checkpoint is written.
        loggers: loggers; may be empty.
        max_epochs: epochs of the run; -1 for no limit.
        max_steps: optimizer steps of the run; -1 for no limit.
        accelerator: ``auto cpu gpu cuda mps``; see :func:`detfuse.training.device.compute_device`.
        devices: number of devices, or their indices.
        num_nodes: number of machines.
        strategy: ``auto ddp`` ..., how several devices work together.
        precision: number format of training and validation.
        gradient_clip_val: largest norm of the whole gradient; None or 0 for no clipping.
        accumulate_grad_batches: batches per optimizer step.
        check_val_every_n_epoch: epochs between validations.
        limit_train_batches: batches per epoch and process: a number, or a fraction as a float.
        limit_val_batches: likewise for validation; images left out count as missed (``data.limit_images`` does not).
        log_every_n_steps: steps between two rows of training metrics.
        fast_dev_run: run this many batches of training and validation, without loggers and checkpoints.
        deterministic: refuse operations without a deterministic form (``warn``: only warn).
        benchmark: let cuDNN try algorithms; pays off where all images have one size.
        detect_anomaly: find the operation that made a NaN; slow.
    """
    _quieten()
    trainer = pl.Trainer(
        default_root_dir=os.fspath(run_dir),
        callbacks=list(callbacks),
        logger=list(loggers) or False,
        max_epochs=max_epochs,
        max_steps=max_steps,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        precision=precision,
        gradient_clip_val=gradient_clip_val or None,
        accumulate_grad_batches=accumulate_grad_batches,
        check_val_every_n_epoch=check_val_every_n_epoch,
        limit_train_batches=limit_train_batches,
        limit_val_batches=limit_val_batches,
        log_every_n_steps=log_every_n_steps,
        fast_dev_run=fast_dev_run,
        deterministic=deterministic,
        benchmark=benchmark,
        detect_anomaly=detect_anomaly,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        **_NOT_LIGHTNINGS,
    )
    use_own_loops(trainer)
    watch_companions(trainer)
    return trainer


def _quieten() -> None:
    """Let Lightning tell only what may be wrong; its tips and the list of devices are information."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
