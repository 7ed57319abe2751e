"""Properties hold for whatever is drawn; the same examples are drawn in every run, and none is kept in the tree."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

# what Hypothesis keeps for itself lies outside the tree
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "hypothesis"))

# DETFUSE_EXAMPLES=20 draws twenty times as many, at random: to look for faults, not to hold what is known
_TIMES = int(os.environ.get("DETFUSE_EXAMPLES", "0"))

settings.register_profile(
    "detfuse",
    database=None,
    deadline=None,
    derandomize=not _TIMES,
    max_examples=50 * max(_TIMES, 1),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("detfuse")
