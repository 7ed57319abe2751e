"""``evaluate``: the numbers of a checkpoint, exactly those that training printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from detfuse.build import build_parts, build_trainer, check_stored_config
from detfuse.cli import results
from detfuse.cli.jobs import Invocation
from detfuse.cli.outputs import require_folder
from detfuse.cli.stored_config import evaluated
from detfuse.config import as_stored, brought_up_to_date
from detfuse.runs.run_folder import run_folder_of
from detfuse.weights.checkpoint import Checkpoint, read_checkpoint


def run(invocation: Invocation) -> None:
    """Evaluate on the validation split of the checkpoint's data, or of the data typed.

    Writes ``metrics.json`` and ``predictions.json`` into ``output``, by default ``evaluation`` in the checkpoint's run
    folder.
    """
    checkpoint, config = stored(invocation)
    output = invocation.config["output"]
    folder = require_folder(Path(output).expanduser() if output else run_folder_of(checkpoint.path) / "evaluation")
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    parts = build_parts(config, stage="validate")
    trainer = build_trainer(config, folder, bare=True)
    if trainer.is_global_zero:
        print(results.header(parts, trainer, folder, config), flush=True)
    module = results.score(trainer, parts, checkpoint)
    if trainer.is_global_zero:
        results.report(module, folder)
        print(f"written to {folder}")


def stored(invocation: Invocation) -> tuple[Checkpoint, dict[str, Any]]:
    """The checkpoint, and its configuration with what was typed; checked, since a checkpoint is only data."""
    checkpoint = read_checkpoint(Path(invocation.config["checkpoint"]).expanduser())
    # Before the typed settings, which may call private targets: those are the user's own.
    current = brought_up_to_date(checkpoint.config)
    check_stored_config(current, invocation.directories, checkpoint.path)
    config = as_stored(current, checkpoint.path, invocation.directories)
    return checkpoint, evaluated(config, invocation)
