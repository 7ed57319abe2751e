"""The commands ``detfuse-train``, ``detfuse-evaluate``, ``detfuse-predict`` and ``detfuse-cost``.

Nothing here imports torch: ``--help`` and the check of a command line answer at once.
"""

from __future__ import annotations

from detfuse.cli.jobs import Invocation, launch


def train() -> None:
    """Train a detector and evaluate its best checkpoint."""
    launch("train", _train)


def evaluate() -> None:
    """Evaluate a checkpoint."""
    launch("evaluate", _evaluate)


def predict() -> None:
    """Detect objects in pictures."""
    launch("predict", _predict)


def cost() -> None:
    """Compare what the fusion operators cost in a neck."""
    launch("cost", _cost)


def _train(invocation: Invocation) -> None:
    from detfuse.cli.training_run import run

    run(invocation)


def _evaluate(invocation: Invocation) -> None:
    from detfuse.cli.evaluation_run import run

    run(invocation)


def _predict(invocation: Invocation) -> None:
    from detfuse.cli.prediction_run import run

    run(invocation)


def _cost(invocation: Invocation) -> None:
    from detfuse.cli.cost_run import run

    run(invocation)
