"""A run of an ablation that shares another's training: ``evaluate`` in a process that ends with the ablation's."""

from __future__ import annotations

from detfuse.ablation.run.launcher import die_with_parent
from detfuse.cli import evaluate

if __name__ == "__main__":
    die_with_parent()
    evaluate()
