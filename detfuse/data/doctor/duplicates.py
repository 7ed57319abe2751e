"""Pictures that are there twice: the same file, or nearly the same picture, within a split or across.

Near ones are found by a difference hash: whether each cell of a small grey copy is lighter than its neighbour, which a
change of size, quality or brightness hardly touches. (The idea: Neal Krawetz, "Kind of Like That", 2013,
https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html; there 64 bits, here the vertical ones
as well.) The hash finds candidates, the grey copies decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detfuse.data.doctor.case import SHOWN, Case, Found
from detfuse.data.doctor.looking import GREY
from detfuse.data.layout import Split

_BANDS = 8  # of 16 bits each
_APART = _BANDS - 1  # bits by which two hashes may differ: one band at least is then the same
_ALIKE = 0.985  # correlation of the grey copies
_CONTRAST = 2.0  # standard deviation of a grey copy, in levels of 255, that has anything to compare
_WITHIN = 256  # neighbours in the order of a band that each hash is compared with

_BITS = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(1)
"""How many bits each number of 16 has."""

Pairs = npt.NDArray[np.int64]


class DecodedPictures(NamedTuple):
    """All decoded pictures of a data set, in a row.

    Attributes:
        splits: of each.
        names: of the files, relative to their image folder.
        paths: the same, with it.
        digests: of the content.
        grey: (P, GREY, GREY) copies.
    """

    splits: Sequence[Split]
    names: Sequence[str]
    paths: Sequence[str]
    digests: Sequence[bytes]
    grey: npt.NDArray[np.float32]

    @classmethod
    def of(cls, case: Case) -> DecodedPictures:
        """Those of a data set; a file counts once in each split."""
        rows = {
            (split, str(index.path(position))): (index.file_names[position], look)
            for split, index in case.indexes.items()
            for position, look in enumerate(case.looks[split].each)
            if look.grey is not None
        }
        grey = [look.grey for _, look in rows.values() if look.grey is not None]
        return cls(
            [split for split, _ in rows],
            [name for name, _ in rows.values()],
            [path for _, path in rows],
            [look.digest for _, look in rows.values()],
            np.stack(grey) if grey else np.zeros((0, GREY, GREY), np.float32),
        )


@lru_cache(maxsize=1)  # the four checks of a data set come one after the other
def _pictures(case: Case) -> DecodedPictures:
    return DecodedPictures.of(case)


@lru_cache(maxsize=1)
def _near(case: Case) -> Pairs:
    return near_pairs(_pictures(case))


def leaks(case: Case) -> Iterator[Found]:
    """Pictures of validation that are trained on."""
    pictures = _pictures(case)
    yield from _across(case, pictures, _same(pictures))


def near_leaks(case: Case) -> Iterator[Found]:
    """Pictures of validation that are nearly as one that is trained on."""
    pictures = _pictures(case)
    yield from _across(case, pictures, _near(case))


def copies(case: Case) -> Iterator[Found]:
    """Pictures that a split has twice."""
    pictures = _pictures(case)
    yield from _within(case, pictures, _same(pictures))


def near_copies(case: Case) -> Iterator[Found]:
    """Pictures that a split has nearly twice."""
    pictures = _pictures(case)
    yield from _within(case, pictures, _near(case))


def _same(pictures: DecodedPictures) -> Pairs:
    """(N, 2) of the same content; of a group of more than two, the first with each."""
    first: dict[tuple[bytes, Split], int] = {}
    pairs = []
    for position, (digest, split) in enumerate(zip(pictures.digests, pictures.splits, strict=True)):
        for other in {first.get((digest, "train")), first.get((digest, "val"))} - {None}:
            pairs.append((other, position))
        first.setdefault((digest, split), position)
    return np.array(pairs, np.int64).reshape(-1, 2)


def near_pairs(pictures: DecodedPictures) -> Pairs:
    """(N, 2) of pictures that are nearly, but not wholly, the same.

    Compared are those that have a band of their hash in common; where very many have, the nearest in order.
    """
    bands = hashes(pictures.grey)
    flat = pictures.grey.reshape(len(bands), -1)
    deviation = flat.std(axis=1)
    standard = (flat - flat.mean(axis=1, keepdims=True)) / np.maximum(deviation, _CONTRAST)[:, None]
    content = np.unique(np.array(pictures.digests, "V16"), return_inverse=True)[1] if len(bands) else np.zeros(0)
    found = []
    for band in range(_BANDS):
        others = [bands[:, (band + k) % _BANDS] for k in range(_BANDS)]
        order = np.lexsort(others[::-1])  # by this band first
        firsts = np.arange(len(order))
        for step in range(1, min(_WITHIN, len(order))):
            firsts = firsts[firsts + step < len(order)]
            a, b = order[firsts], order[firsts + step]
            same = bands[a, band] == bands[b, band]
            firsts, a, b = firsts[same], a[same], b[same]
            if not len(firsts):
                break
            close = (_BITS[bands[a] ^ bands[b]].sum(axis=1) <= _APART) & (content[a] != content[b])
            close &= np.minimum(deviation[a], deviation[b]) >= _CONTRAST
            a, b = a[close], b[close]
            alike = (standard[a] * standard[b]).mean(axis=1) >= _ALIKE
            found.append(np.sort(np.stack([a[alike], b[alike]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)


def hashes(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """(P, 8) the 128 bits of each of the grey copies (P, GREY, GREY)."""
    side = GREY // 2
    small = grey.reshape(-1, side, 2, side, 2).mean(axis=(2, 4))
    across = small[:, :-1, 1:] > small[:, :-1, :-1]
    along = small[:, 1:, :-1] > small[:, :-1, :-1]
    bits = np.concatenate([across.reshape(len(grey), -1), along.reshape(len(grey), -1)], axis=1)
    return np.packbits(bits, axis=1).view(np.uint16)


def _across(case: Case, pictures: DecodedPictures, pairs: Pairs) -> Iterator[Found]:
    for one, other in combinations(case.indexes, 2):
        partners: dict[int, int] = {}  # of the other split, with its first in the one
        for pair in pairs.tolist():
            place = {pictures.splits[position]: position for position in pair}
            if len(place) == 2:
                partners.setdefault(place[other], place[one])
        total = len(case.indexes[other])
        yield Found(f"{one}, {other}", len(partners), total, "images", _named(pictures, partners))


def _within(case: Case, pictures: DecodedPictures, pairs: Pairs) -> Iterator[Found]:
    for split, index in case.indexes.items():
        partners = {b: a for a, b in reversed(pairs.tolist()) if pictures.splits[a] == pictures.splits[b] == split}
        yield Found(split, len(partners), len(index), "images", _named(pictures, partners))


def _named(pictures: DecodedPictures, partners: Mapping[int, int]) -> list[str]:
    return [f"{pictures.names[a]} = {pictures.names[b]}" for a, b in islice(partners.items(), SHOWN)]
