"""Files of tensors: written at once, read without running code from them."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from detfuse.errors import InputError


class ArchiveError(InputError):
    """A file that cannot be read as tensors; the message names the file, the fault and the remedy."""


def read_archive(path: Path, *, legacy: bool) -> Any:
    """Read what ``torch.save`` wrote, on the CPU, as plain data only.

    ``weights_only=True`` is given explicitly, so that no environment variable can switch it off. The checksums of the
    zip are compared first: torch itself loads a file with a flipped byte without a word.

    Args:
        path: an existing file.
        legacy: also accept the format from before torch 1.6 (no zip, no checksums), as older published weights have it.

    Raises:
        ArchiveError: if the file is empty, truncated, damaged, of another kind, or holds more than plain data.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise ArchiveError(f"{path}: the file is empty (0 bytes); it was not written to its end, take another copy")
    if start[:2] == b"PK":
        require_stored(path)
    elif not legacy:
        kind = (
            "a bare pickle, which may run code when opened" if start[:1] == b"\x80" else "no zip as torch.save writes"
        )
        raise ArchiveError(f"{path}: this is {kind}; it was not read")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArchiveError(_explain_pickle(path, str(error))) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArchiveError(f"{path}: not readable as tensors ({reason}); the file is damaged or of another kind") from (
            error
        )


def write_archive(path: Path, content: Any) -> None:
    """Write what :func:`read_archive` reads, at once: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # several processes may write the same
    torch.save(content, part)
    part.replace(path)


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_stored(path: Path) -> None:
    """Compare the checksums of a zip that torch wrote: its entries are stored as they are, so it unpacks to no more.

    Raises:
        ArchiveError: if it is damaged, or its entries are packed or overlap: before they are read, for a small file may
            unpack to more than fits into memory.
    """
    remedy = "take another copy, or an older checkpoint"
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > size:
                raise ArchiveError(
                    f"{path}: the file has {size:,} bytes and unpacks to {unpacked:,}, but torch packs nothing; it was "
                    "not read, save it again by torch.save"
                )
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(f"{path}: the file is truncated or damaged ({error}); {remedy}") from error
    if damaged is not None:
        raise ArchiveError(f"{path}: the file is damaged (the checksum of its entry {damaged!r} is wrong); {remedy}")


def _explain_pickle(path: Path, reason: str) -> str:
    names = re.findall(r"(?:GLOBAL|global|class|function)\s+`?([\w.]+)", reason)
    objects = next((name for name in names if "." in name), None)
    found = f"it holds {objects}" if objects else "it is damaged or holds Python objects"
    return (
        f"{path}: refused, {found}, where only tensors, numbers, text, lists and dicts are read "
        "(anything else could run code); save it again with plain data"
    )
