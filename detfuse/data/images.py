"""Image files: where they may lie, whether they are there, and how they become pixels.

Convention: boxes and sizes refer to the *stored* pixel grid, as COCO's do; an EXIF orientation is not applied. Only
where no annotation fixes the grid may a picture be turned upright.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path, PureWindowsPath
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from detfuse.data.index import AnnotationIndex, DataError, DataWarning
from detfuse.structures import Size

CheckImages = Literal["nothing", "exists", "header"]

_EXIF_ORIENTATION = 0x112
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TURNS = {  # EXIF orientation -> what makes it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PLAIN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PNG_METADATA = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
_SHOWN = 5  # files that a message names
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises on a damaged file


def load_image(path: str | Path, size: Size | None = None, *, upright: bool = False) -> Tensor:
    """Decode an image file by its content; grey, palette, CMYK and 16-bit images become RGB, transparency is dropped.

    Pillow decodes, not torchvision: torchvision's decoders are deprecated since 0.29, and Pillow also reads BMP and
    TIFF. The pixels are equal; the result lies in memory as (H, W, 3), which resizing and collating copy fastest.

    Args:
        path: the file.
        size: (height, width) that the annotation file states, checked before the pixels are decoded.
        upright: turn the picture as its EXIF orientation says.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        DataError: if the file is missing, no image, truncated, or of another size.
    """
    try:
        with Image.open(path) as image:
            orientation = _kept_as_stored(image)
            if size is not None:
                _check_size(Path(path), image, size, orientation)
            turn = _TURNS.get(orientation) if upright else None
            pixels = _rgb(Path(path), image if turn is None else image.transpose(turn))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image file") from error
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace the file or remove its record") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _rgb(path: Path, image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I;16"):  # Pillow would clip to 255 instead of scaling
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if (problem := _mode_problem(image.mode)) is not None:
        raise DataError(f"{path}: {problem}")
    return np.array(image.convert("RGB"))


def _kept_as_stored(image: Image.Image) -> int:
    """The EXIF orientation (1 is upright) of an opened file; no TIFF is turned by it while it is decoded.

    Pillow would, no other form; and it states the size of the turned one.
    """
    if isinstance(image, PngImageFile) and not _has_metadata(image):
        return 1
    exif = image.getexif()
    orientation = int(exif.get(_EXIF_ORIENTATION, 1))
    if orientation != 1 and isinstance(image, TiffImageFile):
        del exif[_EXIF_ORIENTATION]
        image._size = (image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT])
    return orientation


def _has_metadata(image: PngImageFile) -> bool:
    """Whether a PNG may say how it is turned: it may do so behind its pixels, which Pillow decodes to get there."""
    assert image.fp is not None  # it was just opened
    with mmap(image.fp.fileno(), 0, access=ACCESS_READ) as content:
        return any(content.find(mark) >= 0 for mark in _PNG_METADATA)


def _mode_problem(mode: str) -> str | None:
    """Why the pixels of one of Pillow's modes cannot become RGB; None if they can."""
    return (
        f"pixels of mode {mode!r} have no fixed range; save the image with 8 or 16 bits" if mode in ("I", "F") else None
    )


def _check_size(path: Path, image: Image.Image, size: Size, orientation: int) -> None:
    """Compare with the annotation file."""
    found = (image.height, image.width)
    if found != tuple(size):
        turned = found == (size[1], size[0]) and orientation >= 5
        why = (
            f"; its EXIF orientation {orientation} turns it: the annotations were made on the upright image, but "
            "detfuse reads the stored pixels, as COCO does. Save the image upright without EXIF orientation"
            if turned
            else "; correct the record or the file: boxes would be misplaced"
        )
        raise DataError(
            f"{path}: the file has height x width {found[0]} x {found[1]}, the annotation file says "
            f"{size[0]} x {size[1]}{why}"
        )


class Header(NamedTuple):
    """How an image file is stored.

    Attributes:
        mode: of its pixels, as Pillow calls it.
        orientation: EXIF's; 1 is upright.
    """

    mode: str
    orientation: int


def header_of(path: Path, size: Size) -> Header:
    """Read no more than the header of a file, as long as its last bytes are those that end its form.

    Args:
        path: the file.
        size: (height, width) that the annotation file states.

    Raises:
        DataError: if the file cannot be read, was cut, has another size, or pixels that cannot become RGB.
    """
    try:
        with Image.open(path) as image:
            orientation = _kept_as_stored(image)
            _check_size(path, image, size, orientation)
            if (problem := _mode_problem(image.mode)) is not None:
                raise DataError(f"{path}: {problem}")
            if _seems_cut(path, image.format):
                image.load()
            return Header(image.mode, orientation)
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}); replace the file or remove the record"
        ) from error


def is_plain(file_name: object) -> bool:
    """Whether a record's ``file_name`` is one that every system reads in the same way; most are."""
    return isinstance(file_name, str) and len(file_name) < 200 and _PLAIN.fullmatch(file_name) is not None


def relative_path_problem(file_name: object) -> str | None:
    """Why a record's ``file_name`` cannot name a file inside the image folder; None if it can."""
    if is_plain(file_name):
        return None
    if not isinstance(file_name, str) or not file_name.strip():
        return "is empty or no text"
    parts = PureWindowsPath(file_name).parts  # splits at / and \ alike
    if "\0" in file_name:
        return "holds a NUL byte"
    if "://" in file_name:
        return "is a URL; download the images first"
    if file_name.startswith(("/", "\\")) or PureWindowsPath(file_name).drive:
        return "is an absolute path"
    if ".." in parts:
        return "leads out of the image folder"
    if any(len(part.encode()) > 255 for part in parts) or len(file_name.encode()) > 4000:
        return "is too long for a path"
    if not parts:
        return "names a folder"
    return None


def header_sizes(source: Path, root: Path, names: Sequence[str]) -> list[Size]:
    """(height, width) of the stored pixels, from the headers of files by their names in a folder.

    Raises:
        DataError: naming the annotations' ``source``, the folder of the images, and the first five that cannot be read.
    """
    sizes, problems = [], []
    for name in names:
        try:
            with Image.open(root / name) as image:
                _kept_as_stored(image)
                sizes.append((image.height, image.width))
        except _BROKEN as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            problems.append(f"{name} ({reason})")
    if problems:
        raise DataError(
            f"{source}: says no width and height, and {len(problems)} of {len(names)} images in {root} cannot be "
            "read for them; add the files or remove their records:\n  " + "\n  ".join(_first(problems))
        )
    return sizes


def check_images(
    index: AnnotationIndex, *, depth: CheckImages, follow_symlinks: bool, place_of: Callable[[str], str]
) -> list[DataWarning]:
    """Find missing, empty, escaping and (with ``depth="header"``) unreadable or differently sized files at the start.

    Args:
        index: what to check.
        depth: ``exists`` asks the file system only; ``header`` also reads each file's first bytes (about 0.1 ms);
            ``nothing`` is for those who look at the files themselves.
        follow_symlinks: allow links that lead out of the image folder.
        place_of: says where a file lies that has a missing one's name, or nothing.

    Returns:
        What is to be told of files that can be used.

    Raises:
        DataError: naming the first five files with a problem and the total.
    """
    if depth == "nothing":
        return []
    root = index.root.resolve()
    parents: dict[str, bool] = {}
    problems: list[str] = []
    turned: list[str] = []
    for position, name in enumerate(index.file_names):
        parent = os.path.dirname(name)  # noqa: PTH120  pathlib is ten times slower here, and this runs per image
        if parent not in parents:
            parents[parent] = follow_symlinks or (root / parent).resolve().is_relative_to(root)
        problem = _file_problem(root, name, inside=parents[parent], follow_symlinks=follow_symlinks)
        if problem is None and depth == "header":
            problem, orientation = _header(index, position)
            if orientation > 1:
                turned.append(name)
        if problem is not None:
            lies = place_of(name) if len(problems) < _SHOWN and "cannot be opened" in problem else ""
            problems.append(f"image {index.ids[position]}: {problem}" + (f" ({lies})" if lies else ""))
    if problems:
        raise DataError(
            f"{index.source}: {len(problems)} of {len(index)} images cannot be used:\n  "
            + "\n  ".join(_first(problems))
        )
    if not turned:
        return []
    return [
        DataWarning(
            f"{index.source}: {len(turned)} images have an EXIF orientation ({', '.join(_first(turned))}), which is "
            "ignored: the stored pixels are used, as in COCO. Check that the boxes fit, or save the images upright"
        )
    ]


def _file_problem(root: Path, name: str, *, inside: bool, follow_symlinks: bool) -> str | None:
    path = f"{root}/{name}"
    hint = "leads out of the image folder by a symbolic link; set follow_symlinks=true if that is meant"
    if not inside:
        return f"{name} {hint}"
    try:
        info = os.lstat(path)
        if stat.S_ISLNK(info.st_mode):
            if not follow_symlinks and not Path(path).resolve().is_relative_to(root):
                return f"{name} {hint}"
            info = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return f"{path} cannot be opened ({error.strerror}); add the file or remove the record"
    if not stat.S_ISREG(info.st_mode):
        return f"{path} is no file"
    if info.st_size == 0:
        return f"{path} is empty (0 bytes); replace the file or remove the record"
    return None


def _header(index: AnnotationIndex, position: int) -> tuple[str | None, int]:
    height, width = index.sizes[position].tolist()
    try:
        return None, header_of(index.path(position), (height, width)).orientation
    except DataError as error:
        return str(error), 1


def _seems_cut(path: Path, kind: str | None) -> bool:
    """Whether a file lacks the mark that ends it: then only decoding tells whether the pixels are all there."""
    mark = _ENDS.get(kind or "")
    if mark is None:
        return False
    with path.open("rb") as file:
        file.seek(-min(16, os.fstat(file.fileno()).st_size), os.SEEK_END)
        return mark not in file.read()


def _first(lines: Iterable[str], number: int = _SHOWN) -> list[str]:
    lines = list(lines)
    return lines[:number] + (["..."] if len(lines) > number else [])
