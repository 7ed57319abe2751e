"""Where results are to go, tried before the work that makes them."""

from __future__ import annotations

import os
from pathlib import Path

from detfuse.errors import UserError


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
