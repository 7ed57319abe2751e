"""Where data sets of Pascal VOC's xml form have their files: VOC's own folders, and those that tools export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detfuse.data.index import DataError
from detfuse.data.layout.files import NAMES, PICTURES, Folder, PictureNames, Split, SplitFiles, is_there
from detfuse.data.readers.cvat import is_cvat
from detfuse.data.readers.voc import VOC, voc_records

_ANNOTATIONS = ("Annotations", "Annotations/xmls", "xmls", "xml", "labels", ".")
_IMAGES = ("JPEGImages", "images", "imgs", ".")
_LISTS = "ImageSets/Main"
_LISTS_OF: dict[Split, tuple[str, ...]] = {"train": (*NAMES["train"], "trainval"), "val": NAMES["val"]}


def find_voc(root: Folder) -> dict[Split, SplitFiles]:
    """The splits that are there; both are all of it where nothing divides it; none if it is of another form."""
    base = _base(root)
    if base is None:
        return _by_folders(root)
    annotations = annotations_below(base)
    assert annotations is not None
    lists = base / _LISTS
    found: dict[Split, SplitFiles] = {}
    for split, names in _LISTS_OF.items():
        files = [lists / f"{name}.txt" for name in names] if lists else []
        if listed := next((file for file in files if file.is_file()), None):
            found[split] = of_list(base, annotations, listed)
    found = found or _by_folders(base)
    if found:
        return found
    whole = of_folder(base, annotations, undivided=True)
    return {"train": whole, "val": whole}


def of_folder(root: Folder, annotations: Path, *, undivided: bool = False) -> SplitFiles:
    """All xml files of a folder."""
    return _split(root, annotations, annotations, root.files(annotations, (".xml",)), undivided=undivided)


def of_list(root: Folder, annotations: Path, listed: Path) -> SplitFiles:
    """The xml files that a list of VOC's names.

    Raises:
        DataError: if it is empty, or one is not there.
    """
    try:
        names = [line.split()[0] for line in listed.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{listed}: cannot be read as a list of images ({error})") from error
    files = [annotations / f"{name}.xml" for name in dict.fromkeys(names)]
    missing = [file.name for file in files if ".." in file.parts or not is_there(file)]
    if missing or not files:
        what = f"{len(missing)} of {len(files)} have no file in {annotations}: {', '.join(missing[:5]):.400}"
        raise DataError(f"{listed}: " + (what if files else "the list is empty; it names an image per line"))
    return _split(root, listed, annotations, files)


def annotations_below(root: Folder) -> Path | None:
    """The folder of all xml files; None if there is none."""
    folders = (root / name for name in _ANNOTATIONS)
    return next((folder for folder in folders if folder is not None and _holds_xml(folder)), None)


def _base(root: Folder) -> Folder | None:
    """The folder with VOC's own folders: the root, or the only one in it, as VOCdevkit/VOC2012 is.

    Raises:
        DataError: if there are several.
    """
    inner = [path for pattern in ("VOC*", "VOCdevkit/VOC*") for path in sorted(root.path.glob(pattern))]
    for group in ([root.path], inner):
        folders = [replace(root, path=path) for path in group if path.is_dir() and root.holds(path)]
        held = [each for each in folders if annotations_below(each) is not None]
        if len(held) > 1:
            names = ", ".join(each.path.name for each in held)
            raise DataError(f"data.root={root.path} holds several data sets of VOC's form ({names}); give one of them")
        if held:
            return held[0]
    return None


def _holds_xml(folder: Path) -> bool:
    return any(not is_cvat(file) for file in folder.glob("*.[xX][mM][lL]"))


def _by_folders(root: Folder) -> dict[Split, SplitFiles]:
    """A folder per split, as ``train`` or ``Annotations/train``."""
    found: dict[Split, SplitFiles] = {}
    for split, names in NAMES.items():
        places = [place for name in names for place in (name, *(f"{a}/{name}" for a in _ANNOTATIONS[:-1]))]
        places += [f"{name}/{a}" for name in names for a in _ANNOTATIONS[:-1]]
        for place in places:
            folder = root / place
            if folder is not None and root.files(folder, (".xml",)):
                found[split] = of_folder(root, folder)
                break
    return found


def _split(root: Folder, source: Path, annotations: Path, files: list[Path], *, undivided: bool = False) -> SplitFiles:
    folder = root.images or _images(root, annotations)
    root.require_inside((annotations, *(file for file in files if file.is_symlink())))
    pictures = PictureNames(folder, root.files(folder, PICTURES, deep=folder != root.path))
    return SplitFiles(
        VOC,
        source,
        (folder,),
        lambda others: voc_records(source, files, others, pictures),
        tuple(files),
        pictures.names,
        tuple(files),
        undivided=undivided,
    )


def _images(root: Folder, annotations: Path) -> Path:
    """Where the images of a folder of xml files lie: beside them, or in the folder that is usual."""
    parts = root.parts(annotations)
    split = next((part for part in parts if any(part.lower() in names for names in NAMES.values())), None)
    places = [f"{split}/{name}" for name in _IMAGES] + [f"{name}/{split}" for name in _IMAGES] if split else []
    for name in (*places, *_IMAGES):
        folder = root / name
        if folder is not None and root.files(folder, PICTURES, deep=folder != root.path):
            return folder
    return annotations
