"""What lies in the folders of a data set, found whatever its case, without leaving the folder by a link."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from detfuse.data.index import DataError
from detfuse.data.readers import Records

Split = Literal["train", "val"]

NAMES: dict[Split, tuple[str, ...]] = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
"""What folders and lists of a split are called."""

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jfif", ".ppm", ".pgm"))
"""Suffixes of image files, in lower case."""


@dataclass(frozen=True)
class SplitFiles:
    """What a split is read from.

    Attributes:
        form: of the annotations, as people call it.
        annotations: the annotation file, or the folder of such files.
        images: the folders where the images may lie, best first.
        read: reads the annotations, given ``others``.
        inputs: all files that it opens for that, besides ``others``.
        given: all else that it depends on, as plain data.
        files: the annotation files, if their form has no list of classes.
        others: those of the other split: its classes are classes of this one, too.
        undivided: whether these are all images of a data set that has no splits.
    """

    form: str
    annotations: Path
    images: tuple[Path, ...]
    read: Callable[[Sequence[Path]], Records]
    inputs: tuple[Path, ...]
    given: Any = None
    files: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()
    undivided: bool = False

    def records(self) -> Records:
        """The annotations.

        Raises:
            DataError: naming the file, if they cannot be understood.
        """
        return self.read(self.others)


@dataclass(frozen=True)
class Folder:
    """A data set's folder.

    Args:
        path: of the folder.
        follow_symlinks: allow links that lead out of the folder.
        images: where the images lie, if that is given.
    """

    path: Path
    follow_symlinks: bool = False
    images: Path | None = None

    def __truediv__(self, name: str) -> Path | None:
        """A folder below it by its path, whatever its case; None if there is none."""
        path = self.path
        for part in PurePosixPath(name).parts:
            if not (path / part).is_dir():
                found = [child for child in _children(path) if child.name.lower() == part.lower() and child.is_dir()]
                if not found:
                    return None
                path = found[0]
            else:
                path = path / part
        return path

    def files(self, folder: Path, suffixes: Iterable[str], *, deep: bool = False) -> list[Path]:
        """Files of a folder by their suffixes in lower case, sorted; with ``deep`` those of its subfolders, too."""
        wanted = frozenset(suffixes)
        found = []
        for where, folders, names in os.walk(folder, followlinks=self.follow_symlinks):
            folders[:] = sorted(folder for folder in folders if not folder.startswith(".")) if deep else []
            found += [Path(where, name) for name in names if _suffix(name) in wanted and not name.startswith(".")]
        return sorted(found)

    def require_inside(self, paths: Iterable[Path]) -> None:
        """Refuse what is recognised but lies outside of the folder, which only a link can do.

        Raises:
            DataError: naming the first.
        """
        for path in paths:
            if path.is_relative_to(self.path) and path.exists() and not self.holds(path):
                raise DataError(
                    f"{path} is a symbolic link out of data.root ({path.resolve()}); "
                    "if that is meant, set data.follow_symlinks=true"
                )

    def parts(self, path: Path) -> tuple[str, ...]:
        """The folders of a path below it; none of one that was given elsewhere."""
        return path.relative_to(self.path).parts if path.is_relative_to(self.path) else ()

    def holds(self, path: Path) -> bool:
        """Whether a path stays inside it, or may leave it."""
        return self.follow_symlinks or path.resolve().is_relative_to(self.path.resolve())


class PictureNames:
    """The image files of a folder, found by what annotations call them.

    Args:
        folder: where they lie.
        paths: of the image files.
    """

    def __init__(self, folder: Path, paths: Iterable[Path]) -> None:
        self.names = [path.relative_to(folder).as_posix() for path in paths]
        self._exact = set(self.names)
        self._by_stem: dict[str, str] = {}
        for name in reversed(self.names):  # the first wins
            self._by_stem[PurePosixPath(name).stem.lower()] = name

    def __call__(self, given: str | None, stem: str) -> str:
        """The name of an image: as given if there is such a file, else the file of that name in another place or form.

        Args:
            given: what the annotations call it, perhaps with folders of another machine; None if they do not.
            stem: its name without suffix.
        """
        if given is not None and given in self._exact:
            return given
        last = PureWindowsPath(given).name if given else ""
        if last in self._exact:
            return last
        return self._by_stem.get(PurePosixPath(last).stem.lower()) or self._by_stem.get(stem.lower()) or given or stem


def is_there(path: Path) -> bool:
    """Whether a path exists, as annotations name it; none does that no file system takes."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _children(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower() if "." in name else ""
