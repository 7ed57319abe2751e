"""Validation when some processes have nothing to validate."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.loops.evaluation_loop import _EvaluationLoop
from pytorch_lightning.trainer.states import RunningStage, TrainerFn


class CollectiveEvaluationLoop(_EvaluationLoop):
    """Validates on every process or on none.

    Lightning skips a process whose loader is empty, with all its hooks, while the others wait in theirs for it to hand
    over its predictions: a data set with fewer batches than processes would hang. Here such a process runs the hooks
    around no batch.
    """

    @property
    def skip(self) -> bool:
        """Whether no process has a batch."""
        return bool(self.trainer.strategy.reduce_boolean_decision(sum(self.max_batches) == 0, all=True))


def use_collective_evaluation(trainer: pl.Trainer) -> None:
    """Give a trainer these loops for ``validate`` and for the validations within ``fit``."""
    trainer.validate_loop = CollectiveEvaluationLoop(
        trainer, TrainerFn.VALIDATING, RunningStage.VALIDATING, inference_mode=True
    )
    trainer.fit_loop.epoch_loop.val_loop = CollectiveEvaluationLoop(
        trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False
    )
