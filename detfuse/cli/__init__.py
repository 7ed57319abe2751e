"""The commands: ``detfuse-train`` and its siblings.

Nothing here imports torch: ``--help`` and the check of a command line answer at once.
"""

from __future__ import annotations

import os
from importlib import import_module

from detfuse.cli.jobs import Invocation, launch
from detfuse.runs.threads import wait_gently


def train() -> None:
    """Train a detector and evaluate its best checkpoint."""
    _launch("train", "training_run")


def ablate() -> None:
    """Compare arms under the same seeds."""
    _launch("ablate", "ablation_run")


def evaluate() -> None:
    """Evaluate a checkpoint."""
    _launch("evaluate", "evaluation_run")


def predict() -> None:
    """Detect objects in pictures."""
    _launch("predict", "prediction_run")


def cost() -> None:
    """Compare what the fusion operators cost in a neck."""
    _launch("cost", "cost_run")


def export() -> None:
    """Write a checkpoint's detector as a file for other programs."""
    _launch("export", "export_run")


def compare() -> None:
    """Compare two sides of COCO result files."""
    _launch("compare", "compare_run")


def _launch(command: str, module: str) -> None:
    """Launch a command whose ``run(invocation)`` stands in a module that is imported only once there is a job."""
    wait_gently(os.environ)

    def job(invocation: Invocation) -> None:
        import_module(f"detfuse.cli.{module}").run(invocation)

    launch(command, job)
