"""Where data sets of YOLO's txt form have their files: as a data.yaml says, or in the usual folders."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from detfuse.data.index import DataError, DataWarning
from detfuse.data.layout.files import NAMES, PICTURES, Folder, Split, SplitFiles, is_there
from detfuse.data.readers.yolo import YOLO, yolo_records

_LISTED = 1_000_000  # bytes of a data.yaml
_WHOLE = (("images", "labels"), ("JPEGImages", "labels"), ("obj_train_data",) * 2, ("data/obj",) * 2, (".", "labels"))
_NAMES_IN = ("classes.txt", "*.names", "names.txt", "labels/classes.txt", "labels/*/classes.txt", "data/*.names")
_NO_LABELS = frozenset(("classes.txt", "names.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt"))


def find_yolo(root: Folder) -> dict[Split, SplitFiles]:
    """The splits that are there; both are all of it where nothing divides it; none if it is of another form."""
    if (described := _described(root)) is not None:
        return of_yaml(root, described)
    found: dict[Split, SplitFiles] = {}
    for split, names in NAMES.items():
        for name in names:
            if (listed := root.path / f"{name}.txt").is_file() and _is_list(listed):
                found.setdefault(split, of_list(root, listed))
            for images, labels in (
                (f"images/{name}", f"labels/{name}"),
                (f"{name}/images", f"{name}/labels"),
                (name,) * 2,
            ):
                both = root / images, root / labels
                if split not in found and both[0] and both[1] and _match(root, both[0], both[1]):
                    found[split] = of_folders(root, both[1], both[0])
    if len(found) == 1 and "train" in found and _is_everything(root, found["train"]):
        whole = replace(found["train"], undivided=True)
        return {"train": whole, "val": whole}
    if found:
        return found
    for images, labels in (*_WHOLE, (".", ".")):
        both = root / images, root / labels
        if both[0] and both[1] and _match(root, both[0], both[1]):
            whole = of_folders(root, both[1], both[0], undivided=True)
            return {"train": whole, "val": whole}
    return {}


def _described(root: Folder) -> Path | None:
    """The data.yaml, or another file of that kind that has its keys.

    Raises:
        DataError: if the data.yaml itself is none.
    """
    for file in sorted(root.files(root.path, (".yaml", ".yml")), key=lambda file: file.stem != "data"):
        root.require_inside([file])
        if file.stem == "data":
            return file
        with suppress(DataError):
            if {"train", "names"} <= set(_content(file)):
                return file
    return None


def of_yaml(root: Folder, described: Path) -> dict[Split, SplitFiles]:
    """The splits that a data.yaml names.

    Raises:
        DataError: naming the file and key, if it is not understood or names what is not below the root.
    """
    content = _content(described)
    names = _names(described, content.get("names"))
    found: dict[Split, SplitFiles] = {}
    for split, keys in NAMES.items():
        key = next((key for key in keys if content.get(key)), None)
        if key is None:
            continue
        given = content[key] if isinstance(content[key], list) else [content[key]]
        places = [_place(root, described, content.get("path"), key, each) for each in given]
        images = [image for place in places for image in _images_at(root, place)]
        if not images:
            raise DataError(f"{described}: {key}: {', '.join(map(str, places))} holds no images")
        found[split] = _split(root, described, images, names, keypoints="kpt_shape" in content)
    return found


def of_list(root: Folder, listed: Path) -> SplitFiles:
    """The images that a list names, a path per line."""
    images = _listed(root, listed)
    if not images:
        raise DataError(f"{listed}: the list is empty; it names an image per line")
    return _split(root, listed, images, _names_beside(root))


def of_folders(root: Folder, labels: Path, images: Path, *, undivided: bool = False) -> SplitFiles:
    """All images of a folder, with the txt files of another or the same."""
    found = root.files(images, PICTURES, deep=images != root.path)
    return _split(root, labels, found, _names_beside(root), folder=images, labels=labels, undivided=undivided)


def _split(
    root: Folder,
    source: Path,
    images: Sequence[Path],
    names: Sequence[str] | dict[int, str] | None,
    *,
    folder: Path | None = None,
    labels: Path | None = None,
    keypoints: bool = False,
    undivided: bool = False,
) -> SplitFiles:
    folder = folder or Path(os.path.commonpath([image.parent for image in images]))
    texts = {
        image.relative_to(folder).as_posix(): _label_of(image, root.path)
        if labels is None
        else labels / image.relative_to(folder).with_suffix(".txt")
        for image in images
    }
    pairs = {name: file if file.is_file() else None for name, file in texts.items()}
    files = [file for file in pairs.values() if file is not None]
    if not files:
        raise DataError(
            f"{source}: none of the {len(images)} images in {folder} has a txt file; looked for "
            f"{next(iter(texts.values()))}, for one"
        )
    root.require_inside((folder, *(file for file in files if file.is_symlink())))
    if labels is not None:
        _warn_of_others(root, labels, files)
    return SplitFiles(
        YOLO,
        source,
        (folder,),
        lambda others: yolo_records(source, pairs, others, names, keypoints=keypoints),
        tuple(files),
        ([[name, file is not None] for name, file in pairs.items()], names, keypoints),
        tuple(files) if names is None else (),
        undivided=undivided,
    )


def _label_of(image: Path, root: Path) -> Path:
    """YOLO's rule: the last folder ``images`` of the path becomes ``labels``; without one they lie side by side."""
    parts = list(image.relative_to(root).parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return root.joinpath(*parts).with_suffix(".txt")


def _label_files(root: Folder, labels: Path) -> list[Path]:
    files = root.files(labels, (".txt",), deep=labels != root.path)
    return [file for file in files if file.name.lower() not in _NO_LABELS]


def images_of(root: Folder, labels: Path) -> Path:
    """The folder of the images of a folder of txt files: the one given, or ``images`` for ``labels``, or the same."""
    if root.images is not None:
        return root.images
    parts = ["images" if part == "labels" else part for part in root.parts(labels)]
    images = root.path.joinpath(*parts)
    return images if parts and images.is_dir() else labels


def _warn_of_others(root: Folder, labels: Path, used: Iterable[Path]) -> None:
    unused = sorted(set(_label_files(root, labels)) - set(used))
    if unused and labels != root.path:
        shown = ", ".join(file.name for file in unused[:5])
        warnings.warn(
            f"{labels}: {len(unused)} txt files have no image and are not used ({shown})", DataWarning, stacklevel=2
        )


def _match(root: Folder, images: Path, labels: Path) -> bool:
    """Whether some txt file of a folder is of an image of the other."""
    stems = {file.relative_to(labels).with_suffix("") for file in _label_files(root, labels)}
    if not stems:
        return False
    return any(file.relative_to(images).with_suffix("") in stems for file in root.files(images, PICTURES, deep=True))


def _is_everything(root: Folder, split: SplitFiles) -> bool:
    """Whether a list names all images that there are, as some tools write it without dividing anything."""
    listed = split.annotations
    everything = root.files(root.path, PICTURES, deep=True)
    return listed.suffix == ".txt" and set(_listed(root, listed)) == set(everything)


def _is_list(listed: Path) -> bool:
    with listed.open("rb") as file:
        first = file.readline(4096).decode("utf-8", "replace").strip()
    return PurePosixPath(first).suffix.lower() in PICTURES


def _images_at(root: Folder, place: Path) -> list[Path]:
    return _listed(root, place) if place.is_file() else root.files(place, PICTURES, deep=True)


def _listed(root: Folder, listed: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in listed.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{listed}: cannot be read as a list of images ({error})") from error
    images = []
    for line in filter(None, lines):
        found = _below(root, line, (listed.parent, root.path))
        if found is None or not found.is_file():
            raise DataError(f"{listed}: names {line!r:.200}, which is no file below {root.path}")
        images.append(found)
    return list(dict.fromkeys(images))


def _place(root: Folder, described: Path, base: Any, key: str, given: Any) -> Path:
    if not isinstance(given, str):
        raise DataError(f"{described}: {key} must be a folder or a list of images, got {given!r:.60}")
    starts = [described.parent, root.path]
    if isinstance(base, str) and (inside := _below(root, base, tuple(starts))):
        starts.insert(0, inside)
    found = _below(root, given, tuple(starts))
    if found is None:
        raise DataError(f"{described}: {key}: {given} is not below {root.path}; write it relative to this file")
    return found


def _below(root: Folder, given: str, starts: Sequence[Path]) -> Path | None:
    """What a path of another machine is below the root: as it is, or what is left without its first folders."""
    parts = [part for part in PurePosixPath(given.replace("\\", "/")).parts if part not in ("/", ".")]
    for skipped in range(len(parts)):
        rest = parts[skipped:]
        if ".." in rest:
            continue
        for start in starts:
            path = start.joinpath(*rest)
            if is_there(path) and root.holds(path):
                return path
    return None


def _content(described: Path) -> dict[str, Any]:
    try:
        text = described.read_bytes()
        if len(text) > _LISTED:
            raise DataError(f"{described}: {len(text):,} bytes are too many for a description of a data set")
        content = yaml.safe_load(text)
    except OSError as error:
        raise DataError(f"{described}: cannot be opened ({error.strerror})") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"{described}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DataError(f"{described}: expected keys such as train, val and names, got {content!r:.60}")
    return content


def _names(described: Path, given: Any) -> list[str] | dict[int, str]:
    """Of the classes: a list, or a mapping from their numbers."""
    pairs = given.items() if isinstance(given, dict) else enumerate(given) if isinstance(given, list) else ()
    names = dict(pairs)
    keys = all(isinstance(number, int) or str(number).isdecimal() for number in names)
    if not names or not keys or not all(isinstance(name, str | int | float) for name in names.values()):
        raise DataError(f"{described}: names must list the classes, such as [cat, dog] or {{0: cat, 1: dog}}")
    return {int(number): str(name) for number, name in names.items()}


def _names_beside(root: Folder) -> list[str] | None:
    """From the file that names the classes, a line each; None if there is none."""
    for pattern in _NAMES_IN:
        for file in sorted(root.path.glob(pattern)):
            if file.is_file():
                try:
                    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
                except (OSError, UnicodeDecodeError) as error:
                    raise DataError(f"{file}: cannot be read as a list of classes ({error})") from error
                while lines and not lines[-1]:
                    lines.pop()
                return lines
    return None
