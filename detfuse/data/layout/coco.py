"""Where data sets of COCO's json form have their files: the usual layouts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

from detfuse.data.layout.files import Folder, Split, SplitFiles
from detfuse.data.readers.coco import COCO, coco_records


@dataclass(frozen=True)
class Layout:
    """Paths below the data set's root; ``{split}`` stands for the split's name in ``splits``."""

    annotations: str
    images: tuple[str, ...]
    splits: tuple[str, str] = ("train", "val")


_BESIDE = ("{split}", "images/{split}", "images", "JPEGImages", ".")

LAYOUTS: tuple[Layout, ...] = (
    Layout("annotations/instances_{split}.json", ("{split}", "images/{split}"), ("train2017", "val2017")),
    Layout("annotations/instances_{split}.json", ("{split}", "images/{split}"), ("train2014", "val2014")),
    Layout("annotations/instances_{split}.json", ("images/{split}", "{split}", "images", ".")),
    Layout("annotations/instances_{split}.json", ("images/{split}", "{split}", "images", "."), ("train", "valid")),
    Layout("annotations/{split}.json", ("images/{split}", "{split}", "images", ".")),
    Layout("{split}/_annotations.coco.json", ("{split}", "{split}/images"), ("train", "valid")),  # Roboflow
    Layout("{split}/_annotations.coco.json", ("{split}", "{split}/images")),
    Layout("{split}/labels.json", ("{split}/data", "{split}/images", "{split}")),  # FiftyOne
    Layout("{split}/annotations.json", ("{split}/images", "{split}")),
    Layout("instances_{split}.json", _BESIDE),
    Layout("{split}.json", _BESIDE),
)
"""Tried in this order; the first whose two annotation files exist is taken."""


# Where the images of a data set lie that nothing divides.
_WHOLE = ("images/default", "images", "JPEGImages", "obj_train_data", "data", ".")
_DIVIDED = re.compile(r"train|val|test", re.IGNORECASE)


def find_coco(root: Folder) -> dict[Split, SplitFiles]:
    """The splits that are there; both are all of it where nothing divides it; none if it is of another form.

    A layout that holds both splits wins over one that holds only one.
    """
    partial: dict[Split, SplitFiles] = {}
    for layout in LAYOUTS:
        found: dict[Split, SplitFiles] = {}
        splits: tuple[Split, Split] = ("train", "val")
        for split, name in zip(splits, layout.splits, strict=True):
            file = root.path / layout.annotations.format(split=name)
            if file.is_file():
                found[split] = _recognised(root, file, [folder.format(split=name) for folder in layout.images])
        if len(found) == 2:
            return found
        partial = found | partial  # the first wins
    if partial:
        return partial
    folders = [folder for name in ("annotations", ".") if (folder := root / name)]
    files = [file for folder in folders for file in root.files(folder, (".json",)) if _has_keys(file)]
    files = [file for file in files if file.name.lower().startswith("instances")] or files  # beside keypoints, captions
    if len(files) != 1 or _DIVIDED.search(files[0].name):
        return {}
    whole = _recognised(root, files[0], _WHOLE, undivided=True)
    return {"train": whole, "val": whole}


def _has_keys(file: Path) -> bool:
    """Whether the keys of the form stand in a file, which may be large."""
    if not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
        return all(content.find(key) >= 0 for key in (b'"images"', b'"annotations"', b'"categories"'))


def of_file(root: Folder, file: Path, folders: Sequence[str], *, undivided: bool = False) -> SplitFiles:
    """A json file, with its images in the first of some folders that holds the first image, or in the one given."""
    images = (root.images,) if root.images is not None else tuple(root.path / folder for folder in folders)
    return SplitFiles(COCO, file, images, lambda _: coco_records(file), (file,), undivided=undivided)


def _recognised(root: Folder, file: Path, folders: Sequence[str], *, undivided: bool = False) -> SplitFiles:
    found = of_file(root, file, folders, undivided=undivided)
    root.require_inside((file, *(found.images if root.images is None else ())))
    return found
