"""One run of an ablation: ``python -m detfuse.cli.arm`` is ``train`` in a process that ends with the ablation's."""

from __future__ import annotations

from detfuse.ablation.run.launcher import die_with_parent
from detfuse.cli import train

if __name__ == "__main__":
    die_with_parent()
    train()
