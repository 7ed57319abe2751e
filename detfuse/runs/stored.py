"""What a run has left: the configuration to go on with, and a detector from a checkpoint. Files are data, not code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from detfuse.build import build_detector, check_stored_config
from detfuse.config import as_stored
from detfuse.config.retired import up_to_date
from detfuse.detector import Detector
from detfuse.errors import UserError
from detfuse.files.run_files import COMMAND, CONFIG
from detfuse.runs.invocation import Invocation
from detfuse.runs.stored_config import evaluated, resumed
from detfuse.weights.checkpoint import Checkpoint, load_weights, read_checkpoint


def config_to_resume(folder: Path, invocation: Invocation) -> dict[str, Any]:
    """The configuration of a run folder with what was typed.

    Raises:
        UserError: if its files were cut or edited, or something was typed that may not change.
    """
    source = folder / CONFIG
    config = _checked(_read(source, yaml.safe_load), source, invocation)
    command = folder / COMMAND
    choices = _read(command, json.loads).get("choices") if command.is_file() else {}
    if not isinstance(choices, dict):
        raise UserError(f"{command}: has no 'choices'; delete the file, or take another copy of the run folder")
    return resumed(config, choices, invocation)


def open_checkpoint(invocation: Invocation) -> tuple[Checkpoint, dict[str, Any]]:
    """The checkpoint that a command names, and its configuration with what was typed.

    Raises:
        UserError: if it cannot be used, or something was typed that its configuration does not have.
    """
    checkpoint = read_checkpoint(Path(invocation.config["checkpoint"]).expanduser())
    return checkpoint, evaluated(_checked(checkpoint.config, checkpoint.path, invocation), invocation)


def trained_detector(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Detector:
    """The checkpoint's detector, built from its configuration, with its weights."""
    detector = build_detector(config, len(checkpoint.categories))
    load_weights(detector, checkpoint)
    return detector


def _checked(config: Mapping[str, Any], source: Path, invocation: Invocation) -> dict[str, Any]:
    """Before what was typed, which may call private targets: those are the user's own."""
    current = up_to_date(config)
    check_stored_config(current, invocation.directories, source)
    return as_stored(current, source, invocation.directories)


def _read(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())}); it was cut or edited") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a mapping; it was cut or edited")
    return content
