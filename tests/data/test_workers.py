"""A process that reads data fails: the command says why, and ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ONE_BROKEN = """
import sys
from detfuse.data import CocoDataModule, Loader, Transforms
from detfuse.errors import explained
data = CocoDataModule(
    32, 0, root=sys.argv[1], check_images="exists", transform=Transforms(short_side=32), loader=Loader(num_workers=2)
)
data.setup()
try:
    kept = iter(data.val_dataloader())
    list(kept)
except Exception as error:
    print(explained(error))
    sys.exit(3)
"""


def test_the_error_of_a_worker_is_told_in_a_line_and_nothing_waits_for_the_workers(coco_root: Path) -> None:
    """Whatever still refers to the loader when the process ends."""
    picture = sorted((coco_root / "val2017").iterdir())[2]
    picture.write_bytes(picture.read_bytes()[:200])
    command = [sys.executable, "-c", _ONE_BROKEN, str(coco_root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stdout.startswith(f"{picture}: cannot be decoded (")
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
