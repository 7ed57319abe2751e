"""A data set as Lightning's trainer asks for it."""

from __future__ import annotations

from typing import Any, Protocol

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from detfuse.data import DetectionDataModule
from detfuse.structures import Batch
from detfuse.training.resuming import ResumeError


class TrainingData(Protocol):
    """What training asks of its data module besides the loaders."""

    def images_per_batch(self, world_size: int) -> int:
        """Images in a training batch of so many processes together."""

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

    def prepare_data(self) -> None:
        """See :meth:`DetectionDataModule.prepare_data`; Lightning calls it in one process of each machine."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """See :meth:`DetectionDataModule.setup`; Lightning calls it in every process."""
        self.data.setup(stage)

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on must find again; Lightning puts it into the checkpoint."""
        processes = 1 if self.trainer is None else self.trainer.world_size
        return {"processes": processes, **{split: index.fingerprint for split, index in self.data.indexes.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the data with those that the run began with, by content: the same may lie elsewhere by now.

        Raises:
            ResumeError: if there are others.
        """
        for split, index in self.data.indexes.items():
            if state_dict.get(split, index.fingerprint) != index.fingerprint:
                raise ResumeError(
                    f"the {split} annotations are not those that the run began with: {index.source} "
                    f"({index.summary()}, images in {index.root}) was changed, or is another file. Give it what it "
                    "had, or train on this under another name"
                )

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.data.train_dataloader()

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.data.val_dataloader()

    def images_per_batch(self, world_size: int) -> int:
        """See :meth:`DetectionDataModule.images_per_batch`."""
        return self.data.images_per_batch(world_size)

    def train_batches_per_epoch(self, world_size: int) -> int:
        """See :meth:`DetectionDataModule.train_batches_per_epoch`."""
        return self.data.train_batches_per_epoch(world_size)
