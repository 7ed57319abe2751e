"""The images of an annotation file with their files: each record is of one, whose size is known."""

from __future__ import annotations

from collections.abc import Sequence
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


def located(
    records: Records, folders: str | Path | Sequence[Path], refusals: Refusals
) -> tuple[ImageFolder, list[LocatedImage]]:
    """The folder of the images, and the images in ascending order of their ids, texts in the order of the file.

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
    candidates = [Path(folders)] if isinstance(folders, str | Path) else list(folders)
    existing = [folder for folder in candidates if folder.is_dir()]
    if not existing:
        raise DataError(f"{source}: found no image folder; looked for {', '.join(map(str, candidates))}")
    folder = ImageFolder(folder_of(existing, min(str(image.file_name) for image in found)))
    owner: dict[str, ImageId] = {}
    named = [_named(record, folder, owner, records.repairs, refusals) for record in found]
    refusals.settle()
    return folder, _sized(source, named, folder)


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
    plain = is_plain(name)
    problem = None if plain else relative_path_problem(name)
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
            name, plain = meant.name, False
    file = name if plain else str(PurePosixPath(name))  # ./a.jpg is a.jpg
    if file in owner:
        repairs["image file listed under a second id, both were kept; it counts twice"].append(
            f"{record.file_name}: ids {owner[file]} and {record.id}"
        )
    owner[file] = record.id
    return record if plain else record._replace(file_name=name)


def _sized(source: Path, records: Sequence[ImageRecord], folder: ImageFolder) -> list[LocatedImage]:
    """With the sizes of their headers where the annotation file has none."""
    without = [record for record in records if record.height is None or record.width is None]
    sizes = iter(header_sizes(source, folder.path, [record.file_name for record in without]))
    return [
        LocatedImage(r.id, r.file_name, next(sizes) if r.height is None or r.width is None else (r.height, r.width))
        for r in records
    ]
