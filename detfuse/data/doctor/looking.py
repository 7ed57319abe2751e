"""One look at every image file: whether it can be used, how it is stored, and a small grey copy to compare it by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from detfuse.data.images import header_of, load_image
from detfuse.data.index import AnnotationIndex, DataError
from detfuse.structures import Size

GREY = 18
"""Side of the grey copies."""

_TOLD_EVERY = 1000  # images


class ImageLook(NamedTuple):
    """At one image file.

    Attributes:
        problem: why it cannot be used; None if it can.
        mode: of its pixels, as Pillow calls it.
        orientation: EXIF's; 1 is upright.
        digest: of the file's content; empty where it was not decoded.
        grey: (GREY, GREY) float32 copy; None where it was not decoded.
        flat: whether all pixels are equal.
    """

    problem: str | None
    mode: str = ""
    orientation: int = 1
    digest: bytes = b""
    grey: npt.NDArray[np.float32] | None = None
    flat: bool = False


@dataclass(frozen=True)
class ImageLooks:
    """At the image files of an index, in its order."""

    each: tuple[ImageLook, ...]

    def where(self, holds: Callable[[ImageLook], bool]) -> npt.NDArray[np.int64]:
        """Positions of the images of which something holds."""
        return np.flatnonzero([holds(look) for look in self.each])


def look_at(
    index: AnnotationIndex,
    *,
    decode: bool,
    follow_symlinks: bool = False,
    workers: int = 1,
    tell: Callable[[int], None] = lambda _: None,
) -> ImageLooks:
    """Look at every image file once.

    Args:
        index: whose files.
        decode: read the pixels, as training does, or only the header.
        follow_symlinks: take files that are links out of the image folder.
        workers: threads; Pillow decodes beside the others.
        tell: is told now and then how many images were looked at.
    """
    root = index.root.resolve()
    look = partial(_look, decode=decode, inside=None if follow_symlinks else root)
    paths = (index.path(position) for position in range(len(index)))
    sizes = ((height, width) for height, width in index.sizes.tolist())
    found: list[ImageLook] = []
    with ThreadPoolExecutor(workers) as pool:
        for each in pool.map(look, paths, sizes):
            found.append(each)
            if len(found) % _TOLD_EVERY == 0:
                tell(len(found))
    return ImageLooks(tuple(found))


def _look(path: Path, size: Size, *, decode: bool, inside: Path | None) -> ImageLook:
    try:
        if inside is not None and not path.resolve().is_relative_to(inside):
            return ImageLook(f"{path} leads out of the image folder by a symbolic link; see data.follow_symlinks")
        if not path.exists():
            return ImageLook(f"{path}: no such file")
        look = ImageLook(None, *header_of(path, size))
        return _decoded(path, size, look) if decode else look
    except DataError as error:
        return ImageLook(str(error))
    except Exception as error:  # a damaged file may raise anything, and the others are still to be looked at
        return ImageLook(f"{path} cannot be read as an image ({type(error).__name__}: {error})")


def _decoded(path: Path, size: Size, look: ImageLook) -> ImageLook:
    pixels = load_image(path, size).permute(1, 2, 0).numpy()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").digest()[:16]
    small = Image.fromarray(pixels).convert("L").resize((GREY, GREY), Image.Resampling.BOX)
    flat = bool((pixels == pixels[0, 0]).all())
    return look._replace(digest=digest, grey=np.asarray(small, np.float32), flat=flat)
