"""Where data sets of CVAT's own xml form have their files."""

from __future__ import annotations

from pathlib import Path

from detfuse.data.layout.files import NAMES, PICTURES, Folder, PictureNames, Split, SplitFiles
from detfuse.data.readers.cvat import CVAT, cvat_records, is_cvat, subsets_in

_IMAGES = ("images", "data", ".")


def find_cvat(root: Folder) -> dict[Split, SplitFiles]:
    """The splits that the file's subsets are; both are all of it where there are none; none if there is no file."""
    folders = [folder for name in (".", "annotations") if (folder := root / name)]
    files = [file for folder in folders for file in root.files(folder, (".xml",)) if is_cvat(file)]
    if len(files) != 1:
        return {}
    root.require_inside(files)
    there = subsets_in(files[0])
    found = {split: of_file(root, files[0], names) for split, names in NAMES.items() if there.intersection(names)}
    if found:
        return found
    whole = of_file(root, files[0], None, undivided=True)
    return {"train": whole, "val": whole}


def of_file(root: Folder, file: Path, subset: tuple[str, ...] | None, *, undivided: bool = False) -> SplitFiles:
    """A file's images of a subset by its names; all where that is None."""
    folders = (folder for name in _IMAGES if (folder := root / name))
    with_images = (folder for folder in folders if root.files(folder, PICTURES, deep=folder != root.path))
    folder = root.images or next(with_images, root.path)
    pictures = PictureNames(folder, root.files(folder, PICTURES, deep=folder != root.path))
    return SplitFiles(
        CVAT,
        file,
        (folder,),
        lambda _: cvat_records(file, subset, pictures),
        (file,),
        (subset, pictures.names),
        undivided=undivided,
    )
