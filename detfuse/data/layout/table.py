"""Where data sets of CSV rows have their files."""

from __future__ import annotations

from pathlib import Path

from detfuse.data.index import DataError
from detfuse.data.layout.files import NAMES, PICTURES, Folder, PictureNames, Split, SplitFiles, is_there
from detfuse.data.readers.table import TABLE, classes_beside, is_table, rows_of, table_records

_PLACES = ("{}.csv", "{}_annotations.csv", "annotations_{}.csv", "annotations/{}.csv", "{0}/_annotations.csv")
_FOLDERS = ("images", "JPEGImages", "imgs", ".")


def find_table(root: Folder) -> dict[Split, SplitFiles]:
    """The splits that are there; both are all of it where nothing divides it; none if it is of another form.

    Raises:
        DataError: if there are several tables, none of which is called after a split.
    """
    found: dict[Split, SplitFiles] = {}
    for split, names in NAMES.items():
        files = [root.path / place.format(name) for name in names for place in _PLACES]
        if (file := next((file for file in files if file.is_file() and is_table(file)), None)) is not None:
            root.require_inside([file])
            found[split] = of_file(root, file)
    if found:
        return found
    folders = [folder for name in (".", "annotations") if (folder := root / name)]
    tables = [file for folder in folders for file in root.files(folder, (".csv",)) if is_table(file)]
    if len(tables) > 1:
        named = ", ".join(str(file.relative_to(root.path)) for file in tables[:5])
        raise DataError(
            f"data.root={root.path} holds several tables of objects ({named}): call them train.csv and val.csv, or say "
            "which is meant by data.train_annotations=... and data.val_annotations=..."
        )
    if not tables:
        return {}
    root.require_inside(tables)
    whole = of_file(root, tables[0], undivided=True)
    return {"train": whole, "val": whole}


def of_file(root: Folder, file: Path, *, undivided: bool = False) -> SplitFiles:
    """The rows of a file."""
    folder = root.images or _images(root, file)
    pictures = PictureNames(folder, root.files(folder, PICTURES, deep=folder != root.path))
    return SplitFiles(
        TABLE,
        file,
        (folder,),
        lambda others: table_records(file, others, pictures),
        (file, classes_beside(file)),
        pictures.names,
        (file,),
        undivided=undivided,
    )


def _images(root: Folder, file: Path) -> Path:
    """The folder below which the first row's image lies; else the first that has images."""
    first = next(rows_of(file), None)
    beside = "/".join(root.parts(file.parent)) or "."
    stems = [name for names in NAMES.values() for name in names if name in file.stem.lower().split("_")]
    names = [beside, *(f"images/{stem}" for stem in stems), *stems, *_FOLDERS]
    folders = [folder for name in names if (folder := root / name)]
    holding = [folder for folder in folders if first is not None and _is_in(root, folder, first.values["image"])]
    with_images = (folder for folder in folders if root.files(folder, PICTURES))
    return holding[0] if holding else next(with_images, file.parent)


def _is_in(root: Folder, folder: Path, name: str) -> bool:
    path = folder / name.replace("\\", "/")
    return ".." not in path.parts and is_there(path) and root.holds(path)
