"""The commands: ``detfuse-train`` and its siblings.

Nothing here imports torch: ``--help`` and the check of a command line answer at once.
"""

from detfuse.cli.commands import COMMANDS, ablate, compare, cost, data, evaluate, export, predict, train

__all__ = ["COMMANDS", "ablate", "compare", "cost", "data", "evaluate", "export", "predict", "train"]
