"""Names of image files as annotations of other places and systems have them, and the files that they mean."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple
from urllib.parse import unquote

from detfuse.data.images import is_plain, relative_path_problem

_MOST_FILES = 500_000  # that are looked at to tell where a file lies


class Variant(NamedTuple):
    """Another way to read a name, and what was done to it."""

    name: str
    done: str


def variants(name: str) -> Iterator[Variant]:
    """The ways to read a name inside a folder, the most literal first; only those that stay in it."""
    readings = [Variant(name, "")]
    if "\\" in name:
        readings.append(Variant(name.replace("\\", "/"), "file_name with backslashes, which were turned"))
    if "%" in name and (decoded := unquote(name.replace("\\", "/"))) != name:
        readings.append(Variant(decoded, "file_name encoded as in a URL, which was decoded"))
    for reading in readings:
        if relative_path_problem(reading.name) is None:
            yield reading
    for literal, done in readings[1:] or readings:
        if relative_path_problem(literal) is None:
            parts = PureWindowsPath(literal).parts
            for start in range(1, len(parts)):
                yield Variant("/".join(parts[start:]), done or "file_name with folders that are not there, taken off")


class ImageFolder:
    """A folder of images.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listed: dict[str, frozenset[str]] = {}  # folder -> its entries, for one look tells of very many names

    def __contains__(self, name: str) -> bool:
        if not is_plain(name):
            return os.path.lexists(f"{self.path}/{name}")
        parent, _, last = name.rpartition("/")
        if parent not in self._listed:
            self._listed[parent] = _entries(f"{self.path}/{parent}")
        return last in self._listed[parent] or os.path.lexists(f"{self.path}/{name}")

    def meant(self, name: str) -> Variant | None:
        """What a name means that is none of a file here; None if nothing fits, or more than one file does."""
        for variant in variants(name):
            if variant.name in self:
                return variant
        turned = name.replace("\\", "/").removeprefix("./")
        found = self._in_lower_case.get(turned.lower(), [])
        return Variant(found[0], "file_name in other case than the file's") if len(found) == 1 else None

    def place_of(self, name: str) -> str:
        """Where files of that name lie, for a message; nothing if there are none."""
        last = PureWindowsPath(name).name
        stem = last.rpartition(".")[0] or last
        for what, wanted in (("a file of that name", last), ("a file of that name but for its suffix", stem)):
            lie = self._by_stem.get(stem.lower(), []) if wanted == stem else self._by_name.get(last.lower(), [])
            if lie:
                return f"{what} lies at {' and '.join(lie[:2])}"
        return ""

    @cached_property
    def _inside(self) -> list[str]:
        return list(_paths(self.path, self.path))

    @cached_property
    def _in_lower_case(self) -> dict[str, list[str]]:
        return _grouped((path.lower(), path) for path in self._inside)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped((PurePosixPath(path).name.lower(), path) for path in self._everywhere)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped((PurePosixPath(path).stem.lower(), path) for path in self._everywhere)

    @cached_property
    def _everywhere(self) -> list[str]:
        """Here first, then beside."""
        return self._inside + list(_paths(self.path.parent, self.path, without=self.path))


def _entries(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208  pathlib makes a path of each
    except OSError:
        return frozenset()


def _paths(top: Path, start: Path, without: Path | None = None) -> Iterator[str]:
    """Files below a folder, by their paths from ``start``; links to folders are not followed."""
    count = 0
    for where, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(where, name) != without)
        relative = os.path.relpath(where, start)
        for name in sorted(names):
            yield os.path.normpath(f"{relative}/{name}")
        count += len(names)
        if count > _MOST_FILES:
            return


def folder_of(folders: Sequence[Path], name: str) -> Path:
    """Which of some folders has a file of this name: by the most literal reading of it; else the first."""
    for variant in variants(name):
        for folder in folders:
            if os.path.lexists(f"{folder}/{variant.name}"):
                return folder
    return folders[0]


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
