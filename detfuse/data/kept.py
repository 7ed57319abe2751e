"""What was read of a data set, kept in the user's cache, so that the next process does not read it again.

An entry is found by all that a reading depends on: the bytes of the annotations, the settings, the code that reads. It
is used only while the images are those that were looked at: each file's number, size and times of change. Its arrays
are mapped into memory, so that processes share them; it holds no code. The folder is the user's own, or it is not used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import stat
import sys
import time
import warnings
from array import array
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from detfuse.data.index import AnnotationIndex, DataWarning, Texts
from detfuse.data.layout import SplitFiles
from detfuse.data.names import ImageFolder
from detfuse.data.readers.checked import Reading, read_records
from detfuse.data.readers.located import folder_of_images
from detfuse.files.columns import ColumnsError, read_columns, write_columns
from detfuse.structures import Categories

WORTH = 2.0
"""Seconds: what is read faster is not kept."""

SETTLED = 2.0
"""Seconds: what was changed less long before it is read may change again without showing it."""

MOST_BYTES = 2 * 2**30
"""Of all entries together; those that were not used for longest go first."""

_LONGEST = 30 * 24 * 3600  # seconds that an entry stays without being used
_ENDING = ".columns"
_COLUMNS = ("sizes", "offsets", "boxes", "labels", "crowd", "ignore", "areas", "annotation_ids")


def opened(files: SplitFiles, **settings: Any) -> AnnotationIndex:
    """What is kept of a split, if nothing has changed since; else read anew, and kept if that took long.

    Args:
        files: of the split.
        settings: of :func:`detfuse.data.readers.checked.read_records`.

    Raises:
        DataError: as that does.
    """
    place = _folder()
    start, began = time.time(), time.perf_counter()
    inputs = (*files.inputs, *files.others)
    before = _stamp(inputs)
    entry = None
    if place is not None and settings["check"] != "nothing":
        with contextlib.suppress(OSError):  # which the reader tells better
            entry = place / f"{_key(files, inputs, settings)}{_ENDING}"
    if entry is not None and (kept := _kept(entry, files)) is not None:
        return _told(kept)
    reading = read_records(files.records(), files.images, **settings)
    if entry is not None and time.perf_counter() - began >= WORTH:
        stamp = _stamp_of(reading)
        if max(before.newest, stamp.newest) < start - SETTLED and _stamp(inputs) == before:
            _keep(entry, reading, stamp.digest)
    return _told(reading)


def _told(reading: Reading) -> AnnotationIndex:
    for warning in reading.told:
        warnings.warn(warning, stacklevel=4)
    return reading.index


# ---- where


def _folder() -> Path | None:
    """Of the entries, in the place where users have their caches; None where there is none."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (given if given.is_absolute() else Path.home() / ".cache") / "detfuse" / "annotations"
    except RuntimeError:  # no home
        return None


def _is_own(path: Path) -> bool:
    """Whether it is there, is no link, and nobody else can have written it."""
    if sys.platform == "win32":  # where this is not told by a mode
        return False
    try:
        info = path.lstat()
    except OSError:
        return False
    return info.st_uid == os.geteuid() and not info.st_mode & 0o022 and not stat.S_ISLNK(info.st_mode)


# ---- what a reading depends on


def _key(files: SplitFiles, inputs: Iterable[Path], settings: Mapping[str, Any]) -> str:
    """Checksum of all that is known before anything is read."""
    places = [(str(path), str(path.absolute())) for path in (files.annotations, *files.images)]
    known = [files.form, places, files.given, settings, _reader()]
    digest = hashlib.sha256(json.dumps(known, default=str).encode())
    for path in inputs:
        digest.update(json.dumps(str(path)).encode())
        if path.exists():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@functools.cache
def _reader() -> list[str]:
    """The code that reads, by its checksum, and what it calls."""
    here = Path(__file__).parent
    files = [*here.rglob("*.py"), *(here.parent / "files").glob("*.py")]
    digest = hashlib.sha256()
    for file in (*sorted(files), here.parent / "annotations.py", here.parent / "structures.py"):
        digest.update(file.read_bytes())
    libraries = [f"{name} {metadata.version(name)}" for name in ("numpy", "pillow", "pyyaml")]
    return [digest.hexdigest(), sys.version, *libraries]


class _Stamp(NamedTuple):
    """How files lie there.

    Attributes:
        digest: of what the file system knows of each: its number, kind, size and times of change; links with where
            they lead.
        newest: the latest of these times.
    """

    digest: str
    newest: float


def _stamp(paths: Iterable[Path | str]) -> _Stamp:
    known, links = array("Q"), hashlib.sha256()
    newest = 0
    for path in paths:
        try:
            info = os.lstat(path)
            if stat.S_ISLNK(info.st_mode):
                links.update(os.path.realpath(path).encode("utf-8", "surrogateescape"))
                newest = max(newest, info.st_ctime_ns)
                info = os.stat(path)  # noqa: PTH116  pathlib is ten times slower here, and this runs per image
        except (OSError, ValueError):
            known.extend((0,) * 5)
            continue
        newest = max(newest, info.st_mtime_ns, info.st_ctime_ns)
        times = info.st_mtime_ns % 2**64, info.st_ctime_ns % 2**64
        known.extend((info.st_ino % 2**64, info.st_mode, info.st_size, *times))
    return _Stamp(hashlib.sha256(known.tobytes() + links.digest()).hexdigest(), newest / 1e9)


def _stamp_of(reading: Reading) -> _Stamp:
    """Of all images that the annotations name, and of the folders that they lie in."""
    root = str(reading.index.root)
    parents = {name.rpartition("/")[0] for name in reading.files}
    stamp = _stamp(f"{root}/{name}" for name in reading.files)
    real = json.dumps(sorted(os.path.realpath(f"{root}/{parent}") for parent in parents))
    return stamp._replace(digest=hashlib.sha256(f"{stamp.digest}{real}".encode()).hexdigest())


def _reads_the_same(reading: Reading, files: SplitFiles) -> bool:
    """Whether the names of the annotations would still become the same files in the same folder."""
    index = reading.index
    if folder_of_images(files.annotations, files.images, reading.first) != index.root:
        return False
    folder = ImageFolder(index.root)
    for given, found in reading.renamed.items():
        meant = None if given in folder else folder.meant(given)
        if meant is None or meant.name != found:
            return False
    return True


# ---- entries


def _kept(entry: Path, files: SplitFiles) -> Reading | None:
    """What an entry has, if it is there, whole, and nothing has changed since."""
    if not (_is_own(entry.parent) and _is_own(entry)):
        return None
    try:
        columns, notes = read_columns(entry)
    except OSError:
        return None
    except ColumnsError as error:
        warnings.warn(f"{error}; the annotations are read anew", DataWarning, stacklevel=4)
        return None
    reading = _reading_of(columns, notes, files)
    if _stamp_of(reading).digest != notes["stamp"] or not _reads_the_same(reading, files):
        return None
    with contextlib.suppress(OSError):
        os.utime(entry)
    return reading


def _keep(entry: Path, reading: Reading, stamp: str) -> None:
    """Write an entry, where there is room; others that are no longer needed go."""
    index = reading.index
    texts = isinstance(index.ids[0], str)
    columns = {name: getattr(index, name) for name in _COLUMNS}
    names = {"file_names": Texts(index.file_names), "files": Texts(reading.files)}
    for name, each in names.items():
        columns[f"{name}.bytes"], columns[f"{name}.offsets"] = each.columns
    notes = {
        "stamp": stamp,
        "form": index.form,
        "groups": index.groups,
        "root": str(index.root),
        "ids": index.ids if texts else None,
        "categories": [index.categories.ids, index.categories.names],
        "told": [[str(warning), warning.what, warning.records] for warning in reading.told],
        "first": reading.first,
        "renamed": dict(reading.renamed),
    }
    if not texts:
        columns["ids"] = index.numbers
    with contextlib.suppress(OSError):  # no room, or no place to write: then it is read anew the next time
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_own(entry.parent):
            write_columns(entry, columns, notes)
            _clear(entry.parent)


def _reading_of(columns: Mapping[str, Any], notes: Mapping[str, Any], files: SplitFiles) -> Reading:
    names = {name: Texts.of(columns[f"{name}.bytes"], columns[f"{name}.offsets"]) for name in ("file_names", "files")}
    ids, category_names = notes["categories"]
    index = AnnotationIndex(
        source=files.annotations,
        form=notes["form"],
        groups=tuple(notes["groups"]),
        root=Path(notes["root"]),
        categories=Categories(tuple(ids), tuple(category_names)),
        ids=tuple(columns["ids"].tolist() if notes["ids"] is None else notes["ids"]),
        file_names=names["file_names"],
        **{name: columns[name] for name in _COLUMNS},
    )
    told = [DataWarning(*each) for each in notes["told"]]
    return Reading(index, told, names["files"], notes["first"], notes["renamed"])


def _clear(folder: Path) -> None:
    """Remove entries that were not used for long, and what is too much."""
    now, left = time.time(), MOST_BYTES
    entries = [(path, path.stat()) for path in folder.iterdir() if path.name.endswith((_ENDING, ".part"))]
    for path, info in sorted(entries, key=lambda each: each[1].st_mtime, reverse=True):
        left -= info.st_size
        if left < 0 or now - info.st_mtime > _LONGEST:
            path.unlink(missing_ok=True)
