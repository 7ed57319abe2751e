"""From where a run goes on: the checkpoint, verified before anything else is done, and what it must fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from detfuse.config import as_stored
from detfuse.config.kinds import keys_of
from detfuse.config.leaves import value_at
from detfuse.data import DetectionDataModule
from detfuse.errors import InputError, UserError
from detfuse.files.run_files import BEST, LAST
from detfuse.runs.run_folder import checkpoint_of
from detfuse.runs.stored_config import kept_otherwise
from detfuse.training.datamodule import LightningData
from detfuse.weights.checkpoint import Checkpoint, CheckpointError, load_weights, read_training
from detfuse.words import listed


@dataclass(frozen=True)
class Resumption:
    """A checkpoint that a run can go on from.

    Attributes:
        checkpoint: the file.
        config: the configuration in it.
        weights: in it, the average too where there is one.
        epochs: that are done.
        seen: batches of the next epoch that are done too.
        step: optimizer steps that are done.
        data: what it says of its data; None if an older version wrote it.
    """

    checkpoint: Path
    config: Mapping[str, Any]
    weights: tuple[Checkpoint, ...]
    epochs: int
    seen: int
    step: int
    data: Mapping[str, Any] | None

    def require_same(self, data: DetectionDataModule, config: Mapping[str, Any]) -> None:
        """See that the run goes on with its own checkpoint and the data that it began with, and has an end ahead of it.

        Args:
            data: wherever they lie now.
            config: of the run folder, with what was typed.

        Raises:
            UserError: naming what differs.
        """
        if others := kept_otherwise(self.config, config):
            raise UserError(
                f"{self.checkpoint} is of another run: {listed(others)}. Put the run's own checkpoint in its place; "
                "weights of another run are what init_from= starts from"
            )
        if self.data is not None:
            LightningData(data).load_state_dict(dict(self.data))
        else:
            was = {key: value_at(self.config, key) for key in keys_of("data")}
            moved = [key for key, value in was.items() if value not in (value_at({}, key), value_at(config, key))]
            if moved:
                raise UserError(
                    f"{self.checkpoint}: an older version wrote it, which did not note the content of its data, so "
                    f"that {', '.join(moved)} cannot change: nothing shows that it is the same data"
                )
        max_epochs = config["trainer"].get("max_epochs", -1)
        if 0 <= max_epochs < self.epochs + bool(self.seen):
            raise UserError(f"trainer.max_epochs={max_epochs}: the run has come to {self}; it cannot be made shorter")

    def require_fit(self, detector: nn.Module) -> None:
        """See that its weights are those of the run's detector, which gets them.

        Raises:
            CheckpointError: naming those that are missing, left over, or of another shape.
        """
        for weights in self.weights:
            load_weights(detector, weights)

    def require_processes(self, number: int) -> None:
        """See that within an epoch the rest of its batches is the same.

        Raises:
            UserError: if it was left by another number of processes, which share batches in another way.
        """
        before = (self.data or {}).get("processes", number)
        if self.seen and before != number:
            raise UserError(
                f"{self.checkpoint} stands in the middle of an epoch of {before} processes; {number} would form other "
                f"batches of what is left: go on with {before} until an epoch has ended"
            )

    def is_finished(self, config: Mapping[str, Any]) -> bool:
        """Whether nothing is left to train."""
        trainer = config["trainer"]
        return bool(self.epochs == trainer.get("max_epochs") or self.step == trainer.get("max_steps"))

    def __str__(self) -> str:
        within = f", batch {self.seen} of epoch {self.epochs + 1}" if self.seen else f", the end of epoch {self.epochs}"
        return f"step {self.step}{within}"


def resumption(folder: Path, directories: list[Path]) -> Resumption:
    """The checkpoint that a run folder goes on from, its checksums compared.

    Args:
        folder: of the run.
        directories: the shipped configuration and the user's, which say what one in a checkpoint may be.

    Raises:
        UserError: if it is damaged, naming what else there is.
    """
    checkpoint = folder / checkpoint_of(folder)
    try:
        return _read(checkpoint, directories)
    except InputError as error:
        raise UserError(f"{error}. {_what_else(folder, checkpoint, directories)}") from error


def _read(checkpoint: Path, directories: list[Path]) -> Resumption:
    read, trained, training = read_training(checkpoint)
    config = as_stored(read.config, checkpoint, directories)
    try:
        loop = training["loops"]["fit_loop"]
        epoch, batch = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]["current"]
        return Resumption(
            checkpoint=checkpoint,
            config=config,
            weights=(read, trained),
            epochs=_count(epoch["processed"]),
            seen=_count(batch["processed"]) if _count(epoch["started"]) > epoch["processed"] else 0,
            step=_count(training["global_step"]),
            data=_noted(training.get(LightningData.__qualname__)),
        )
    except (LookupError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise CheckpointError(
            f"{checkpoint}: what it says of the training is incomplete ({type(error).__name__}: {said})"
        ) from error


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{value!r:.60} is no count")
    return value


def _noted(data: Any) -> Mapping[str, Any] | None:
    """What was noted of the data: a number of processes, and a text for each split."""
    noted: Mapping[str, Any] | None = data
    if not isinstance(data, Mapping | None) or not all(isinstance(value, int | str) for value in (data or {}).values()):
        raise InputError(f"{data!r:.60} is nothing that is noted of data")
    return noted


def _what_else(folder: Path, damaged: Path, directories: list[Path]) -> str:
    for other in (folder / LAST, folder / BEST):
        if other != damaged and other.is_file():
            try:
                return (
                    f"{other} is whole ({_read(other, directories)}): delete {damaged}, and the run goes on from there"
                )
            except InputError:
                return f"{other} is damaged too: overwrite=true begins again"
    return f"There is no other checkpoint in {damaged.parent}: overwrite=true begins again"
