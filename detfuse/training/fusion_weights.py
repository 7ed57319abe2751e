"""What fusion has learnt, epoch by epoch."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import nn

from detfuse.files.run_files import FUSION_WEIGHTS
from detfuse.inspect.learnt_weights import learnt_weights
from detfuse.training.loggers import MetricsCsv


class _WeightsCsv(MetricsCsv):
    file_name = FUSION_WEIGHTS  # no option: an ablation's report reads it


class FusionWeights(pl.Callback):
    """Writes ``<run folder>/fusion_weights.csv``: one row per validation, one column per learnt scalar of fusion.

    Columns are ``node<-input`` for the normalised weights of a fusion graph, and the module's path for others, such as
    SAGAN's gamma. They are the weights that were validated: with EMA, the average. A detector that learns none gets no
    file. A resumed run continues the file.
    """

    def __init__(self) -> None:
        self._file: MetricsCsv | None = None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Append a row; here an average still stands in for the weights."""
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        detector = pl_module.detector
        assert isinstance(detector, nn.Module)
        weights = learnt_weights(detector)
        if not weights:
            return
        self._file = self._file or _WeightsCsv(trainer.default_root_dir)
        self._file.log_metrics({"epoch": trainer.current_epoch, **weights}, trainer.global_step)
