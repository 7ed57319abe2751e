"""What lies in a run folder, by name: written by several rooms, read by others, typed here alone."""

from __future__ import annotations

from pathlib import Path

# What the run is: written when it begins.
CONFIG = "config.yaml"  # the resolved configuration; also the mark of a run folder
COMMAND = "command.json"  # what was typed
ENVIRONMENT = "environment.json"  # versions, device and threads
SUMMARY = "summary.txt"
FUSION = "fusion.json"
FUSION_DRAWING = "fusion.svg"

# What it does: grows while it runs.
METRICS_CSV = "metrics.csv"
FUSION_WEIGHTS = "fusion_weights.csv"
CHECKPOINTS = "checkpoints"
LAST = Path(CHECKPOINTS) / "last.ckpt"
BEST = Path(CHECKPOINTS) / "best.ckpt"
ANOMALY = "anomaly.pt"  # the step at which numbers ceased to be finite
LOCK = ".lock"

# What came of it.
METRICS = "metrics.json"  # the 12 numbers
PREDICTIONS = "predictions.json"  # COCO results of the validation images
CALIBRATION = "calibration.json"  # a slope and an offset per level, where they were fitted

# Beside them where an ablation made the run.
LOG = "log.txt"  # what the process printed
STATE = "state.json"  # where the run stands
COST = "cost.json"  # what its arm costs
CANDIDATES = "candidates.pt"  # what it predicted before it was combined, where other arms share its training
