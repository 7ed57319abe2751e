"""A data set as Lightning's trainer asks for it."""

from __future__ import annotations

from typing import Protocol

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from detfuse.data import DetectionDataModule
from detfuse.structures import Batch


class TrainingData(Protocol):
    """What training asks of its data module besides the loaders."""

    @property
    def batch_size(self) -> int:
        """Images in a training batch of each process."""

    def train_batches_per_epoch(self, world_size: int) -> int:
        """Training batches of each of so many processes."""


class LightningData(pl.LightningDataModule):
    """Hands a data set to Lightning: ``trainer.fit(module, datamodule=LightningData(data))``.

    Args:
        data: the data set, which knows nothing of Lightning.
    """

    def __init__(self, data: DetectionDataModule) -> None:
        super().__init__()
        self.data = data

    @property
    def batch_size(self) -> int:
        """Images in a training batch of each process."""
        return self.data.loader.batch_size

    def prepare_data(self) -> None:
        """See :meth:`DetectionDataModule.prepare_data`; Lightning calls it in one process of each machine."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """See :meth:`DetectionDataModule.setup`; Lightning calls it in every process."""
        self.data.setup(stage)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.data.train_dataloader()

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.data.val_dataloader()

    def train_batches_per_epoch(self, world_size: int) -> int:
        """See :meth:`DetectionDataModule.train_batches_per_epoch`."""
        return self.data.train_batches_per_epoch(world_size)
