"""Where results are to go, tried before the work that makes them, and which files there may be written over."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from detfuse.errors import UserError
from detfuse.files.text import append_text
from detfuse.runs.invocation import Invocation
from detfuse.runs.run_folder import run_folder_of

_MADE = ".made.sha256"  # one line for each file that a command wrote into the folder, as `sha256sum --check` reads them


def require_folder(folder: Path, files: Sequence[str] = ()) -> Path:
    """See that files could be written into a folder, which need not exist yet; nothing is made.

    Args:
        folder: which it is.
        files: names of what is to be written. One that is there must be as a command left it.

    Raises:
        UserError: naming what is in the way.
        OSError: where the system cannot even look for it, such as for a name that is too long.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{folder}: {existing} is a file, so nothing can be written below it; name another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: no right to write in {existing}; name another folder")
    made = _made_in(folder)
    foreign = [name for name in files if os.path.lexists(folder / name) and not _is_among(made, folder / name)]
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise UserError(
            f"{folder}: {', '.join(foreign[:5])}{more} would be written over, but no command of detfuse made it, or it "
            "was changed since: name another output=, or move it away"
        )
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


def published_output(invocation: Invocation, name: str) -> Path:
    """The folder for what comes of published weights, where nobody named one: beside the runs, not beside a cache."""
    return Path("runs") / "published" / invocation.choices["experiment"] / name


def require_file(file: Path) -> Path:
    """See that a file could be written, or written over if a command made it; nothing is made.

    Raises:
        UserError: naming what is in the way.
        OSError: see :func:`require_folder`.
    """
    if file.is_dir():
        raise UserError(f"{file}: this is a folder; name a file")
    require_folder(file.parent, files=[file.name])
    return file


def note_made(*files: Path) -> None:
    """Note that a command wrote these files, so that the next one may write over them."""
    for file in files:
        append_text(file.parent / _MADE, f"{_line(file)}\n")


def _made_in(folder: Path) -> set[str]:
    record = folder / _MADE
    return set(record.read_text(encoding="utf-8", errors="replace").split("\n")) if record.is_file() else set()


def _is_among(made: set[str], file: Path) -> bool:
    """Whether it is as it was made; not so a link, which leads to a file somewhere else."""
    return file.is_file() and not file.is_symlink() and _line(file) in made


def _line(file: Path) -> str:
    with file.open("rb") as content:
        return f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {file.name}"
