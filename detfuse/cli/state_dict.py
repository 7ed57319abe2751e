"""``export format=torchvision``: a checkpoint's weights as a state dict that torchvision's own model loads."""

from __future__ import annotations

from pathlib import Path

from detfuse.cli.settings import ExportSettings
from detfuse.detector import Detector
from detfuse.errors import InputError, UserError
from detfuse.files.archive import write_archive
from detfuse.runs.outputs import note_made, require_file
from detfuse.runs.run_folder import run_folder_of
from detfuse.weights.checkpoint import Checkpoint
from detfuse.weights.torchvision import as_torchvision
from detfuse.words import shown


def write_state_dict(settings: ExportSettings, checkpoint: Checkpoint, detector: Detector) -> None:
    """Write it, and say by which call it is read.

    Raises:
        UserError: if torchvision has no detector of these parts.
    """
    default = run_folder_of(checkpoint.path) / f"{checkpoint.path.stem}{settings.suffix}"
    path = require_file(Path(settings.output).expanduser() if settings.output else default)
    try:
        published, count, state = as_torchvision(detector.state_dict(), len(checkpoint.categories))
    except InputError as error:
        raise UserError(f"{checkpoint.path}: {error}") from error
    write_archive(path, state)
    note_made(path)
    first = int(published.background)
    names = ", ".join(f"{label} {shown(name)}" for label, name in enumerate(checkpoint.categories.names, first))
    print(f"model   torchvision's {published.model}, every one of its {len(state)} weights")
    print(f"labels  {names}{', 0 is the background' if first else ''}")
    print(
        f"read by torchvision.models.get_model({published.model!r}, weights=None, weights_backbone=None, "
        f"num_classes={count})\n        .load_state_dict(torch.load({str(path)!r}))"
    )
    mean, std = (list(numbers) for numbers in detector.normalization)
    print(f"        images are normalised by image_mean={mean}, image_std={std}")
    print("        sizes of images, thresholds and limits are not in it: give the model your own")
    print(f"written to {path} ({path.stat().st_size / 2**20:.1f} MiB)")
