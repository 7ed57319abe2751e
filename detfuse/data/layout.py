"""Which files of a folder are the training and the validation split: the usual layouts of COCO data sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detfuse.data.index import DataError

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Layout:
    """Paths below the data set's root; ``{split}`` stands for the split's name in ``splits``."""

    annotations: str
    images: tuple[str, ...]
    splits: tuple[str, str] = ("train", "val")


_BESIDE = ("{split}", "images/{split}", "images", ".")

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


_OTHER_PLACES = ("annotations/*.json", "Annotations/*.xml", "labels/*.txt", "labels/*/*.txt")  # of COCO, VOC, YOLO


@dataclass(frozen=True)
class SplitFiles:
    """The annotation file of a split and the folders where its images may lie, best first."""

    annotations: Path
    images: tuple[Path, ...]


def find_split(
    root: Path,
    split: Split,
    *,
    annotations: str | None = None,
    images: str | None = None,
    follow_symlinks: bool = False,
) -> SplitFiles:
    """Recognise a split from the root alone, or take what is given.

    Args:
        root: the data set's folder.
        split: which split.
        annotations: the annotation file if it is given, relative to ``root`` or absolute.
        images: the image folder if it is given, relative to ``root`` or absolute.
        follow_symlinks: take recognised files and folders that are links out of ``root``.

    Raises:
        DataError: with all that was looked for, if nothing was recognised or what is given does not exist.
    """
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder; give the folder that holds annotations and images")
    if annotations is not None and not (root / annotations).is_file():
        raise DataError(f"data.{split}_annotations={annotations}: no such file ({root / annotations})")
    if images is not None and not (root / images).is_dir():
        raise DataError(f"data.{split}_images={images}: no such folder ({root / images})")
    if annotations is not None:
        guesses = images or (f"images/{split}", split, "images", ".")
        folders = (guesses,) if isinstance(guesses, str) else guesses
        return SplitFiles(root / annotations, tuple(root / folder for folder in folders))
    layout, name = _recognise(root, split)
    found = SplitFiles(
        root / layout.annotations.format(split=name),
        tuple(root / f.format(split=name) for f in ((images,) if images is not None else layout.images)),
    )
    if not follow_symlinks:
        recognised = (found.annotations, *(found.images if images is None else ()))
        _refuse_links_out(root, recognised)
    return found


def annotations_in(root: Path) -> Path | None:
    """An annotation file that a folder holds in a usual layout or place, be it of another form; None if it has none."""
    usual = [root / layout.annotations.format(split=name) for layout in LAYOUTS for name in layout.splits]
    others = (file for pattern in _OTHER_PLACES for file in root.glob(pattern))
    return next((file for file in (*usual, *others) if file.is_file()), None)


def _recognise(root: Path, split: Split) -> tuple[Layout, str]:
    """A layout that holds both splits wins over one that holds only this split."""
    position = ("train", "val").index(split)
    holds_this: list[Layout] = []
    for layout in LAYOUTS:
        files = [root / layout.annotations.format(split=name) for name in layout.splits]
        if all(file.is_file() for file in files):
            return layout, layout.splits[position]
        if files[position].is_file():
            holds_this.append(layout)
    if holds_this:
        return holds_this[0], holds_this[0].splits[position]
    tried = dict.fromkeys(layout.annotations.format(split=layout.splits[position]) for layout in LAYOUTS)
    there = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())[:10]
    raise DataError(
        f"data.root={root}: no annotation file of the {split} split was recognised. Looked for\n  "
        + "\n  ".join(tried)
        + f"\nThe folder holds: {', '.join(there) or 'nothing'}. "
        f"Name the files: data.{split}_annotations=... data.{split}_images=..."
    )


def _refuse_links_out(root: Path, paths: tuple[Path, ...]) -> None:
    inside = root.resolve()
    for path in paths:
        if path.exists() and not path.resolve().is_relative_to(inside):
            raise DataError(
                f"{path} is a symbolic link out of data.root ({path.resolve()}); "
                "if that is meant, set data.follow_symlinks=true"
            )
