"""``evaluate``: the numbers of a checkpoint, exactly those that training printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from detfuse.build import build_parts, build_trainer, is_to_be_fitted
from detfuse.cli.settings import EvaluateSettings
from detfuse.errors import UserError
from detfuse.files.run_files import METRICS, PREDICTIONS
from detfuse.runs.header import header
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import default_output, note_made, published_output, require_file, require_folder
from detfuse.runs.scoring import report, require_one_process, score, score_candidates
from detfuse.runs.stored import open_checkpoint
from detfuse.weights.checkpoint import Checkpoint


def run(invocation: Invocation) -> None:
    """Evaluate on the validation split of the checkpoint's data, or of the data typed.

    Writes ``metrics.json`` and ``predictions.json`` into ``output``, by default ``evaluation`` in the checkpoint's run
    folder.

    Raises:
        UserError: whatever the user can put right.
    """
    checkpoint, config = open_checkpoint(invocation)
    settings = EvaluateSettings.of(invocation.config)
    given = settings.output
    if given:
        folder = Path(given).expanduser()
    else:
        published = settings.weights is not None
        folder = (
            published_output(invocation, "evaluation") if published else default_output(checkpoint.path, "evaluation")
        )
    require_folder(folder, files=[METRICS, PREDICTIONS])
    candidates = Path(settings.candidates).expanduser() if settings.candidates else None
    if candidates and not candidates.is_file():  # one that is there is read
        require_file(candidates)
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    _require_held_back(config, checkpoint)
    stage = "fit" if is_to_be_fitted(config) else "validate"
    parts = build_parts(config, stage=stage, classes=checkpoint.categories if settings.weights else None)
    trainer = build_trainer(config, folder, bare=True)
    require_one_process(trainer, config, candidates)
    if trainer.is_global_zero:
        print(header(parts, trainer, folder, config), flush=True)
    scored = score_candidates(parts, checkpoint, candidates) if candidates else score(trainer, parts, checkpoint)
    if trainer.is_global_zero:
        report(scored, folder, parts.data, checkpoint.path)
        note_made(folder / METRICS, folder / PREDICTIONS)
        print(f"written to {folder}" + (f", candidates in {candidates}" if candidates else ""))


def _require_held_back(config: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """What a calibration is fitted to must have been held back when the checkpoint was trained."""
    now, then = (each["data"]["loader"].get("hold_back", 0.0) for each in (config, checkpoint.config))
    if is_to_be_fitted(config) and now != then:
        raise UserError(
            f"data.loader.hold_back={now}: the checkpoint was trained with {then}, so that a calibration would be "
            "fitted to images that it was trained on, or not to all that it was not: leave it out"
        )
