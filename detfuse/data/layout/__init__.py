"""Which files of a folder are the training and the validation split: the form and its layout, from the folder alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from detfuse.data.index import DataError
from detfuse.data.layout import coco, cvat, table, voc, yolo
from detfuse.data.layout.files import Folder, Split, SplitFiles

__all__ = ["Given", "NoSplitError", "Split", "SplitFiles", "annotations_in", "find_split"]

Given = tuple[str | None, str | None]
"""The annotations and the image folder of a split where they are given, relative to the root or absolute."""

_FORMS: tuple[Callable[[Folder], dict[Split, SplitFiles]], ...] = (
    coco.find_coco,
    yolo.find_yolo,
    cvat.find_cvat,
    voc.find_voc,
    table.find_table,
)
"""Tried in this order; the first that finds both splits is taken."""


class NoSplitError(DataError):
    """A folder in which a split was not recognised."""


_NOTHING: Given = (None, None)


def find_split(
    root: Path, split: Split, *, given: Mapping[Split, Given] | None = None, follow_symlinks: bool = False
) -> SplitFiles:
    """Recognise a split from the root alone, or take what is given.

    Args:
        root: the data set's folder.
        split: which split.
        given: what is given of each split.
        follow_symlinks: take recognised files and folders that are links out of ``root``.

    Raises:
        DataError: with all that was looked for, if nothing was recognised or what is given does not exist.
    """
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder; give the folder that holds annotations and images")
    given = given or {}
    other: Split = "val" if split == "train" else "train"
    found = _find(Folder(root, follow_symlinks), split, given.get(split, _NOTHING))
    if found.undivided and given.get(other, _NOTHING)[0] is not None:
        raise NoSplitError(
            f"data.root={root}: data.{other}_annotations is given and nothing divides the folder: give "
            f"data.{split}_annotations, too"
        )
    if not found.files or found.undivided:
        return found
    try:
        others = _find(Folder(root, follow_symlinks), other, given.get(other, _NOTHING))
    except DataError:  # told once that split is read
        return found
    return replace(found, others=others.files if others.form == found.form else ())


def annotations_in(root: Path) -> Path | None:
    """An annotation file that a folder holds in a usual layout or place, whatever its form; None if it has none."""
    usual = [root / layout.annotations.format(split=name) for layout in coco.LAYOUTS for name in layout.splits]
    others = (file for pattern in _OTHER_PLACES for file in root.glob(pattern))
    return next((file for file in (*usual, *others) if file.is_file()), None)


_OTHER_PLACES = ("annotations/*.json", "Annotations/*.xml", "labels/*.txt", "labels/*/*.txt", "data.yaml")


def _find(root: Folder, split: Split, given: Given) -> SplitFiles:
    annotations, images = given
    if annotations is not None and not (root.path / annotations).exists():
        raise DataError(f"data.{split}_annotations={annotations}: no such file ({root.path / annotations})")
    if images is not None and not (root.path / images).is_dir():
        raise DataError(f"data.{split}_images={images}: no such folder ({root.path / images})")
    if images is not None:
        root = replace(root, images=root.path / images)
    if annotations is None:
        return _recognised(root, split)
    return _given(root, split, root.path / annotations)


def _given(root: Folder, split: Split, annotations: Path) -> SplitFiles:
    """By what it is: a file's form by its suffix, a folder's by its files."""
    suffix = annotations.suffix.lower()
    if annotations.is_dir():
        if root.files(annotations, (".xml",)):
            return voc.of_folder(root, annotations)
        if root.files(annotations, (".txt",)):
            return yolo.of_folders(root, annotations, yolo.images_of(root, annotations))
        raise DataError(f"data.{split}_annotations={annotations}: a folder without xml and txt files")
    if suffix == ".csv":
        return table.of_file(root, annotations)
    if suffix == ".xml":
        return cvat.of_file(root, annotations, None)
    if suffix in (".yaml", ".yml"):
        found = yolo.of_yaml(root, annotations)
        if split not in found:
            raise DataError(f"{annotations}: names no {split} split; add the key {split}, a folder of images")
        return found[split]
    if suffix == ".txt":
        files = voc.annotations_below(root)
        return yolo.of_list(root, annotations) if files is None else voc.of_list(root, files, annotations)
    return coco.of_file(root, annotations, (f"images/{split}", split, "images", "."))


def _recognised(root: Folder, split: Split) -> SplitFiles:
    partly: dict[Split, SplitFiles] = {}
    for form in _FORMS:
        found = form(root)
        if len(found) == 2:
            return found[split]
        partly = found | partly  # the first wins
    if split in partly:
        return partly[split]
    position = ("train", "val").index(split)
    tried = dict.fromkeys(layout.annotations.format(split=layout.splits[position]) for layout in coco.LAYOUTS)
    there = sorted(path.name + "/" * path.is_dir() for path in root.path.iterdir())[:10]
    name = split if split == "train" else "val or valid"
    raise NoSplitError(
        f"data.root={root.path}: no annotation file of the {split} split was recognised. {_other(split, partly)}"
        "Looked for\n  "
        + "\n  ".join(tried)
        + f"\n  xml files of Pascal VOC in Annotations, with ImageSets/Main, or in folders called {name}"
        "\n  an xml file of CVAT, whose images may be of subsets called likewise"
        f"\n  data.yaml of YOLO, or txt files in labels/..., .../labels or beside the images, likewise"
        f"\n  CSV files called {name}, with the columns image,xmin,ymin,xmax,ymax,label"
        f"\nThe folder holds: {', '.join(there) or 'nothing'}. "
        f"Name the files: data.{split}_annotations=... data.{split}_images=..."
    )


def _other(split: Split, partly: Mapping[Split, SplitFiles]) -> str:
    """What to do where only the other split is there."""
    for other, files in partly.items():
        remedy = (
            "give some of its images to a val split, or another folder or list by data.val_annotations=...; a folder "
            "of images that no name divides is divided by data.val_share"
            if split == "val"
            else "training needs one, evaluation does not"
        )
        return f"There is a {other} split ({files.form}, {files.annotations}) and no {split} split: {remedy}. "
    return ""
