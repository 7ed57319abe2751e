"""Lightning's loops where they do not serve: epochs that go on where they were stopped, validations without a batch."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.evaluation_loop import RestartStage, _EvaluationLoop
from pytorch_lightning.loops.fit_loop import _FitLoop
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

    def update_restart_stage(self) -> None:
        """Tell that the checkpoint was written within a validation, of whatever batch."""
        begun = self.restarting and self.batch_progress.total.ready > 0
        self._restart_stage = RestartStage.RESTARTED_MID_EVALUATION if begun else RestartStage.NONE

    def reset(self) -> None:
        """Begin at the first batch: what an interrupted validation had predicted is gone."""
        if self.restarting:
            self.batch_progress.reset()
        super().reset()


class PlacedFitLoop(_FitLoop):
    """Goes on at the epoch and the batch where the checkpoint was written.

    Lightning restores how many batches were seen, but begins the epoch's data anew; and it tells a sampler the epoch
    only after its loader's workers have asked for the first batches. A data set whose batch sampler has ``start_at``
    (:class:`detfuse.data.loader.TrainBatches`) is told here, before the loader is iterated for the first time.
    """

    @property
    def place(self) -> tuple[int, int]:
        """The epoch to train on, and how many of its batches have been seen."""
        epoch: Any = self.epoch_progress.current  # Lightning's type of it is too wide
        # A checkpoint within an epoch is written when its last batch is processed, and not yet counted as completed.
        batch: Any = self.epoch_loop.batch_progress.current
        return epoch.processed, batch.processed if epoch.started > epoch.processed else 0

    def _load_combined_loader_states(self) -> None:
        """What Lightning calls between making the loader and iterating it."""
        super()._load_combined_loader_states()
        assert self._combined_loader is not None
        for loader in self._combined_loader.flattened:
            start_at = getattr(getattr(loader, "batch_sampler", None), "start_at", None)
            if start_at is not None:
                start_at(*self.place)

    def _iteration_based_training(self) -> bool:
        """What Lightning asks to know whether an epoch is taken up in its middle.

        It says so of every run with ``max_steps``, also where the epoch had ended, which would then end twice.
        """
        return False


def use_own_loops(trainer: pl.Trainer) -> None:
    """Give a trainer these loops for ``fit`` with its validations, and for ``validate``."""
    fit_loop = PlacedFitLoop(trainer, min_epochs=trainer.min_epochs, max_epochs=trainer.max_epochs)
    fit_loop.epoch_loop = trainer.fit_loop.epoch_loop
    trainer.fit_loop = fit_loop
    trainer.validate_loop = CollectiveEvaluationLoop(
        trainer, TrainerFn.VALIDATING, RunningStage.VALIDATING, inference_mode=True
    )
    fit_loop.epoch_loop.val_loop = CollectiveEvaluationLoop(
        trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False
    )
