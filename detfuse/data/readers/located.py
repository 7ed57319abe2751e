"""The images of an annotation file with their files: each record is of one, whose size is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from detfuse.data.images import header_sizes, is_plain, relative_path_problem
from detfuse.data.index import DataError
from detfuse.data.names import ImageFolder, folder_of
from detfuse.data.readers.records import ImageRecord, Records, Repairs
from detfuse.data.readers.refusals import Refusals
from detfuse.structures import ImageId, Size


class LocatedImage(NamedTuple):
    """An image whose file and size, height and width, are known."""

    id: ImageId
    file_name: str
    size: Size


@dataclass(frozen=True)
class Located:
    """The images of an annotation file.

    Attributes:
        folder: that they lie in.
        images: in ascending order of their ids, texts in the order of the file.
        first: the name by which the folder was chosen.
        renamed: a name that the annotations have -> that of the file which was found for it.
    """

    folder: ImageFolder
    images: list[LocatedImage]
    first: str
    renamed: dict[str, str]


def located(records: Records, folders: str | Path | Sequence[Path], refusals: Refusals) -> Located:
    """Find the images of an annotation file.

    That a file is there is not looked at, but where its header says a size, or its name can be read in another way.

    Args:
        records: of an annotation file; what is repaired is noted there.
        folders: where the images may lie; of several, the first that holds the first image is taken.
        refusals: where what is refused is gathered; the reading ends here if there was any so far.

    Raises:
        DataError: naming the records.
    """
    source = records.source
    found = _images(source, records, refusals)
    first = min(str(image.file_name) for image in found)
    folder = ImageFolder(folder_of_images(source, folders, first))
    owner: dict[str, ImageId] = {}
    named = [_named(record, folder, owner, records.repairs, refusals) for record in found]
    refusals.settle()
    pairs = zip(found, named, strict=True)
    renamed = {record.file_name: name.file_name for record, name in pairs if name is not record}
    return Located(folder, _sized(source, named, folder), first, renamed)


def folder_of_images(source: Path, folders: str | Path | Sequence[Path], first: str) -> Path:
    """Which of some folders the images lie in: that which holds the first.

    Raises:
        DataError: naming the annotations' ``source``, if none is there.
    """
    candidates = [Path(folders)] if isinstance(folders, str | Path) else list(folders)
    existing = [folder for folder in candidates if folder.is_dir()]
    if not existing:
        raise DataError(f"{source}: found no image folder; looked for {', '.join(map(str, candidates))}")
    return folder_of(existing, first)


def _images(source: Path, records: Records, refusals: Refusals) -> list[ImageRecord]:
    found: dict[ImageId, ImageRecord] = {}
    for record in records.images:
        if record.id not in found:
            found[record.id] = record
        elif found[record.id] == record:
            records.repairs["image listed twice, one was dropped"].append(str(record.id))
        else:
            refusals.add(f"image {record.id!s:.100}", "this id is given to two images; give each its own id")
    if not found:
        refusals.settle()
        raise DataError(f"{source}: the list of images is empty: nothing to train on or to evaluate")
    texts = isinstance(next(iter(found)), str)
    return list(found.values()) if texts else [found[number] for number in sorted(found)]


def _named(
    record: ImageRecord, folder: ImageFolder, owner: dict[str, ImageId], repairs: Repairs, refusals: Refusals
) -> ImageRecord:
    """With the file's name: as the record has it, or what else has the one meaning; ``owner`` is whose a file is."""
    name = record.file_name
    problem = relative_path_problem(name)
    if problem is not None:
        shown = repr(name) if len(repr(name)) < 100 else repr(name)[:100] + "..."
        place = folder.place_of(name) if isinstance(name, str) and name.strip() else ""
        remedy = f"; {place}, from {folder.path}" if place else ""
        told = f"file_name {shown} {problem}; expected a path inside the image folder{remedy}"
        refusals.add(f"image {record.id!s:.100}", told, f"file_name {problem}")
        return record
    if name not in folder:
        meant = folder.meant(name)
        if meant is not None and meant.done and meant.name not in owner:  # two names never become one file
            repairs[meant.done].append(f"{name} is {meant.name}")
            record = record._replace(file_name=meant.name)
    file = record.file_name if is_plain(record.file_name) else str(PurePosixPath(record.file_name))  # ./a.jpg is a.jpg
    if file in owner:
        repairs["image file listed under a second id, both were kept; it counts twice"].append(
            f"{name}: ids {owner[file]} and {record.id}"
        )
    owner[file] = record.id
    return record


def _sized(source: Path, records: Sequence[ImageRecord], folder: ImageFolder) -> list[LocatedImage]:
    """With the sizes of their headers where the annotation file has none."""
    without = [record for record in records if record.height is None or record.width is None]
    sizes = iter(header_sizes(source, folder.path, [record.file_name for record in without]))
    return [
        LocatedImage(r.id, r.file_name, next(sizes) if r.height is None or r.width is None else (r.height, r.width))
        for r in records
    ]
