"""The annotation index: a data set's annotations with its image files, cheap to hand to worker processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress, pairwise
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from detfuse.annotations import Annotations, offsets_of
from detfuse.errors import InputError
from detfuse.structures import ImageId


class DataError(InputError):
    """Something in the data set cannot be used; the message names the file, the record and the remedy.

    Args:
        message: of all that.
        refused: problem, and the annotations that have it -> the names of all records that do, where it is of records.
    """

    def __init__(self, message: str, refused: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(message)
        self.refused = dict(refused or {})


class DataWarning(UserWarning):
    """Something in the data set was repaired; the message names the file, the records and what was done.

    Args:
        message: of all that.
        what: was done, where it was done to single records.
        records: by their names, all of them.
    """

    def __init__(self, message: str, what: str = "", records: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.what, self.records = what, tuple(records)


class Texts(Sequence[str]):
    """Very many texts in two arrays.

    A worker counts its references to every Python object that it looks at, in the object, and so makes a copy of its
    page of memory, which it had shared with the main process. Of an array it only reads.

    Args:
        texts: in their order.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._offsets = offsets_of(np.fromiter(map(len, encoded), np.int64, len(encoded)))

    @property
    def columns(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """The bytes of all, and where each begins, with the end of the last."""
        return self._bytes, self._offsets

    @classmethod
    def of(cls, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Texts:
        """From such columns."""
        texts = cls(())
        texts._bytes, texts._offsets = data, offsets
        return texts

    def __iter__(self) -> Iterator[str]:
        data, offsets = self._bytes.tobytes(), self._offsets.tolist()
        return (data[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(offsets))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[str, ...]: ...
    def __getitem__(self, position: int | slice) -> str | tuple[str, ...]:
        if isinstance(position, slice):
            return tuple(self[i] for i in range(*position.indices(len(self))))
        number = range(len(self))[position]  # counted from the end if negative
        start, end = self._offsets[number : number + 2].tolist()
        return self._bytes[start:end].tobytes().decode("utf-8", "surrogatepass")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as of a list


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnotationIndex(Annotations):
    """Annotations of images that lie in a folder, in ascending order of their ids; texts in the order of the file.

    Where the file's image ids are texts, numbers stand for them in tensors: 1, 2, ... in the order of the file. Nothing
    that leaves the program holds such a number: :meth:`id_of` is the way back.

    Attributes:
        source: where the annotations came from, for messages.
        form: what people call the form of the annotations.
        groups: names of the categories that have no box and only group others.
        root: folder of the images.
        file_names: (I,) paths of the images, relative to ``root``; may be given as any sequence.
        sizes: (I, 2) int64 (height, width) of the stored pixels.
        annotation_ids: (A,) int64, unique and positive.
        numbers: (I,) int64, what stands for each image in a batch.
    """

    source: Path
    form: str = ""
    groups: tuple[str, ...] = ()
    root: Path
    file_names: Sequence[str]
    sizes: npt.NDArray[np.int64]
    annotation_ids: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        texts = len(self.ids) > 0 and isinstance(self.ids[0], str)
        numbers = np.arange(1, len(self.ids) + 1) if texts else np.array(self.ids, np.int64)
        object.__setattr__(self, "numbers", numbers)
        if not isinstance(self.file_names, Texts):
            object.__setattr__(self, "file_names", Texts(self.file_names))

    def id_of(self, number: int) -> ImageId:
        """The file's own id of an image, of the number that stands for it in a batch."""
        return self.ids[number - 1] if isinstance(self.ids[0], str) else number

    def number_of(self, position: int) -> int:
        """The number that stands in a batch for the image at this position: its id, unless that is a text."""
        return int(self.numbers[position])

    def path(self, position: int) -> Path:
        """File of the image at this position."""
        return self.root / self.file_names[position]

    def boxes_xyxy(self, position: int) -> npt.NDArray[np.float32]:
        """(N, 4) corners of one image's boxes, clipped to it; a fresh array."""
        height, width = self.sizes[position]
        boxes = self.boxes[self.rows(position)]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        return corners.clip(0, [width, height, width, height]).astype(np.float32)

    def labels_of(self, position: int) -> npt.NDArray[np.int64]:
        """(N,) labels of one image's boxes; a fresh array."""
        return self.labels[self.rows(position)].copy()

    def crowd_of(self, position: int) -> npt.NDArray[np.bool_]:
        """(N,) whether each of one image's boxes teaches nothing: a crowd, or to be ignored; a fresh array."""
        return ~self.counted[self.rows(position)]

    def limit(self, num_images: int | None) -> AnnotationIndex:
        """The first images by id with their annotations; the index itself where None or where it has no more.

        Raises:
            DataError: if ``num_images`` is below 1.
        """
        if num_images is None or num_images >= len(self):
            return self
        if num_images < 1:
            raise DataError(f"limit_images must be at least 1, got {num_images}")
        return self.only(np.arange(len(self)) < num_images)

    def drawn(self, share: float) -> npt.NDArray[np.bool_]:
        """(I,) a share of the images that depends on nothing but their names: at least one, and not all.

        Raises:
            DataError: if there is only one image.
        """
        if len(self) < 2:
            raise DataError(f"{self.source}: one image cannot be divided into a training and a validation split")
        order = sorted(range(len(self)), key=lambda i: hashlib.sha256(self.file_names[i].encode()).digest())
        drawn = np.zeros(len(self), np.bool_)
        drawn[order[: min(max(round(share * len(self)), 1), len(self) - 1)]] = True
        return drawn

    def only(self, kept: npt.NDArray[np.bool_]) -> AnnotationIndex:
        """The images of a mask (I,) with their annotations; numbers stand for text ids anew."""
        rows = np.repeat(kept, self.counts)
        return replace(
            self,
            ids=tuple(compress(self.ids, kept)),
            file_names=Texts(compress(self.file_names, kept)),
            sizes=self.sizes[kept],
            offsets=offsets_of(self.counts[kept]),
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            ignore=self.ignore[rows],
            areas=self.areas[rows],
            annotation_ids=self.annotation_ids[rows],
        )

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of all that is annotated, and of the images' names and sizes; wherever they lie."""
        names = json.dumps([self.ids, list(self.file_names), self.categories.as_dict()])
        arrays = [self.sizes, self.offsets, self.boxes, self.labels, self.crowd, self.areas]
        if self.ignore.any():  # what has none keeps the checksum that it had before there were any
            arrays.append(self.ignore)
        digest = hashlib.sha256(names.encode())
        for array in arrays:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def summary(self) -> str:
        """One line: images, boxes, crowds, and objects to ignore where there are any."""
        empty = int((self.counts == 0).sum())
        ignored = int((self.ignore & ~self.crowd).sum())
        return (
            f"{len(self):,} images ({empty:,} without objects), {int(self.counted.sum()):,} boxes, "
            f"{int(self.crowd.sum()):,} crowds" + (f", {ignored:,} to ignore" if ignored else "")
        )
