"""What a run has left: the configuration to go on with, and a detector from a checkpoint. Files are data, not code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detfuse.build import build_data, build_detector
from detfuse.config import as_stored
from detfuse.data.datamodule import GeneratedDataModule
from detfuse.detector import Detector
from detfuse.files.plain import read_mapping
from detfuse.files.run_files import CONFIG
from detfuse.runs.invocation import Invocation, read_typed
from detfuse.runs.outputs import require_inside
from detfuse.runs.stored_config import evaluated, resumed
from detfuse.weights.checkpoint import Checkpoint, load_weights, read_checkpoint


def config_to_resume(folder: Path, invocation: Invocation) -> dict[str, Any]:
    """The configuration of a run folder with what was typed.

    Raises:
        UserError: if its files were cut or edited, or something was typed that may not change.
    """
    require_inside(folder, filter(Path.is_symlink, folder.rglob("*")))
    source = folder / CONFIG
    config = as_stored(read_mapping(source), source, invocation.directories)
    typed = read_typed(folder)
    return with_own_data(resumed(config, typed.choices if typed else {}, invocation), invocation.config)


def open_checkpoint(invocation: Invocation) -> tuple[Checkpoint, dict[str, Any]]:
    """The checkpoint that a command names, and its configuration with what was typed.

    Raises:
        UserError: if it cannot be used, or something was typed that its configuration does not have.
    """
    checkpoint = read_checkpoint(Path(invocation.config["checkpoint"]).expanduser())
    stored = as_stored(checkpoint.config, checkpoint.path, invocation.directories)
    return checkpoint, with_own_data(evaluated(stored, invocation), invocation.config)


def with_own_data(config: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration from a file whose generated data are made only where this command makes its own.

    Where they are already, they are read; but a file does not say where new ones are written.

    Args:
        config: once it has passed the gate.
        own: that of this command.
    """
    data = build_data(config, size_divisor=1)
    if not isinstance(data, GeneratedDataModule) or data.folder.is_dir():
        return config
    return {**config, "data": {**config["data"], "root": own["data"]["root"]}}


def trained_detector(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Detector:
    """The checkpoint's detector, built from its configuration, with its weights."""
    detector = build_detector(config, len(checkpoint.categories))
    load_weights(detector, checkpoint)
    return detector
