"""Running the real commands as a user would, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

TINY = (
    "data.num_train=16",
    "data.num_val=8",
    "data.image_size=64",
    "data.max_size=40",
    "data.transform.short_side=64",
    "data.loader.num_workers=0",
    "neck.out_channels=16",
    "head.num_convs=1",
)
"""A data set and a detector that train for an epoch in a second."""


def run(command: str, *argv: str, folder: Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """``python scripts/<command>.py argv`` in ``folder``; stdout and stderr are in the failure's message."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / f"{command}.py"), *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # the same numbers whatever else runs
    )
    assert (done.returncode != 0) == fails, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
