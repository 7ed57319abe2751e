"""``evaluate``: the numbers of a checkpoint, exactly those that training printed."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from detfuse.build import build_parts, build_trainer
from detfuse.cli.commands import EvaluateSettings
from detfuse.files.run_files import METRICS, PREDICTIONS
from detfuse.runs.header import header
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import note_made, require_folder
from detfuse.runs.run_folder import run_folder_of
from detfuse.runs.scoring import report, score
from detfuse.runs.stored import open_checkpoint


def run(invocation: Invocation) -> None:
    """Evaluate on the validation split of the checkpoint's data, or of the data typed.

    Writes ``metrics.json`` and ``predictions.json`` into ``output``, by default ``evaluation`` in the checkpoint's run
    folder.
    """
    checkpoint, config = open_checkpoint(invocation)
    output = EvaluateSettings.of(invocation.config).output
    folder = Path(output).expanduser() if output else run_folder_of(checkpoint.path) / "evaluation"
    require_folder(folder, files=[METRICS, PREDICTIONS])
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    parts = build_parts(config, stage="validate")
    trainer = build_trainer(config, folder, bare=True)
    if trainer.is_global_zero:
        print(header(parts, trainer, folder, config), flush=True)
    module = score(trainer, parts, checkpoint)
    if trainer.is_global_zero:
        report(module, folder)
        note_made(folder / METRICS, folder / PREDICTIONS)
        print(f"written to {folder}")
