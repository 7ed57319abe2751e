"""Where results are to go, tried before the work that makes them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from detfuse.errors import UserError
from detfuse.runs.run_folder import run_folder_of


def require_folder(folder: Path) -> Path:
    """See that files could be written into a folder, which need not exist yet; nothing is made.

    Raises:
        UserError: naming what is in the way.
        OSError: where the system cannot even look for it, such as for a name that is too long.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{folder}: {existing} is a file, so nothing can be written below it; name another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: no right to write in {existing}; name another folder")
    return folder


def require_inside(folder: Path, places: Iterable[Path]) -> None:
    """See that what is written into a folder, perhaps somebody else's, does not go elsewhere by a symbolic link.

    Raises:
        UserError: naming the first that does.
    """
    inside = folder.resolve()
    for place in places:
        if not place.resolve().is_relative_to(inside):
            raise UserError(
                f"{place} is a symbolic link out of {folder}, where files would be written ({place.resolve()}); "
                "replace the link by what it leads to"
            )


def default_output(checkpoint: Path, name: str) -> Path:
    """The folder beside a checkpoint, in its run's if it lies in one, for what nobody named a place for."""
    folder = run_folder_of(checkpoint) / name
    require_inside(folder.parent, [folder])
    return folder


def require_file(file: Path) -> Path:
    """See that a file could be written, or written over; nothing is made.

    Raises:
        UserError: naming what is in the way.
        OSError: see :func:`require_folder`.
    """
    if file.is_dir():
        raise UserError(f"{file}: this is a folder; name a file")
    require_folder(file.parent)
    return file
