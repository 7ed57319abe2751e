"""``evaluate``: the numbers of a checkpoint, exactly those that training printed."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from detfuse.build import build_parts, build_trainer
from detfuse.cli.commands import EvaluateSettings
from detfuse.errors import UserError
from detfuse.runs.header import header
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import require_file, require_folder
from detfuse.runs.run_folder import run_folder_of
from detfuse.runs.scoring import report, score, score_candidates
from detfuse.runs.stored import open_checkpoint


def run(invocation: Invocation) -> None:
    """Evaluate on the validation split of the checkpoint's data, or of the data typed.

    Writes ``metrics.json`` and ``predictions.json`` into ``output``, by default ``evaluation`` in the checkpoint's run
    folder.

    Raises:
        UserError: whatever the user can put right.
    """
    checkpoint, config = open_checkpoint(invocation)
    settings = EvaluateSettings.of(invocation.config)
    output = Path(settings.output).expanduser() if settings.output else run_folder_of(checkpoint.path) / "evaluation"
    folder = require_folder(output)
    candidates = require_file(Path(settings.candidates).expanduser()) if settings.candidates else None
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    parts = build_parts(config, stage="validate")
    trainer = build_trainer(config, folder, bare=True)
    if candidates and trainer.world_size > 1:
        raise UserError(f"candidates={candidates}: one process keeps and combines them; leave out trainer.devices")
    if trainer.is_global_zero:
        print(header(parts, trainer, folder, config), flush=True)
    scored = score_candidates(parts, checkpoint, candidates) if candidates else score(trainer, parts, checkpoint)
    if trainer.is_global_zero:
        report(scored, folder)
        print(f"written to {folder}" + (f", candidates in {candidates}" if candidates else ""))
