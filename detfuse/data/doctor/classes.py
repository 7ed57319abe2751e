"""What may be wrong with classes, and with how the objects are spread over classes, images and splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from detfuse.data.doctor.case import SHOWN, Case, Found, images_at, percent
from detfuse.data.index import AnnotationIndex
from detfuse.data.layout import Split

FEW = 20  # objects of a class to learn it from
UNEQUAL = 50  # objects of the most frequent class by those of the rarest
EMPTY = 0.3  # of the images

Counts = npt.NDArray[np.int64]


def per_class(index: AnnotationIndex) -> Counts:
    """(K,) objects of each class."""
    return np.bincount(index.labels[index.counted], minlength=len(index.categories))


def unseen(case: Case) -> Iterator[Found]:
    """Classes with objects in one split only."""
    if len(case.indexes) < 2:
        return
    counts = {split: _by_name(index) for split, index in case.indexes.items()}
    pairs: list[tuple[Split, Split, str]] = [
        ("val", "train", "nothing teaches them"),
        ("train", "val", "nothing scores them"),
    ]
    for here, there, so in pairs:
        ours, theirs = counts[here], counts[there]
        names = [f"{name} ({count})" for name, count in ours.items() if count and not theirs.get(name)]
        yield Found(f"{here} only", len(names), len(ours), "classes", names[:SHOWN], so)


def few(case: Case) -> Iterator[Found]:
    """Classes with hardly any objects to learn from."""
    index = case.indexes.get("train")
    if index is None:
        return
    counts = _by_name(index)
    rare = sorted((count, name) for name, count in counts.items() if count < FEW)
    yield Found("train", len(rare), len(counts), "classes", [f"{name} ({count})" for count, name in rare[:SHOWN]])


def unequal(case: Case) -> Iterator[Found]:
    """Whether the most frequent class has many times the objects of the rarest that has any."""
    index = case.indexes.get("train")
    if index is None:
        return
    counts = {name: count for name, count in _by_name(index).items() if count}
    if len(counts) < 2:
        return
    rarest, most = min(counts, key=lambda n: counts[n]), max(counts, key=lambda n: counts[n])
    below = [name for name in sorted(counts, key=lambda n: counts[n]) if counts[name] * UNEQUAL < counts[most]]
    more = f"{most} has {counts[most]:,} objects, {rarest} {counts[rarest]:,}"
    yield Found("train", len(below), len(counts), "classes", below[:SHOWN], more)


def alike(case: Case) -> Iterator[Found]:
    """Classes whose names differ in case, blanks or punctuation only."""
    for split, index in list(case.indexes.items())[:1]:  # the splits have the same
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for name in index.categories.names:
            groups["".join(filter(str.isalnum, name.casefold())) or name].append(name)
        same = [" = ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
        yield Found(split, len(same), len(index.categories), "classes", same[:SHOWN])


def empty(case: Case) -> Iterator[Found]:
    """Images without objects, where they are many."""
    for split, index in case.indexes.items():
        objects = np.bincount(index.images[index.counted], minlength=len(index))
        positions = np.flatnonzero(objects == 0)
        if len(positions) > EMPTY * len(index):
            more = percent(len(positions), len(index))
            yield Found(split, len(positions), len(index), "images", images_at(index, positions), more)


def _by_name(index: AnnotationIndex) -> dict[str, int]:
    return dict(zip(index.categories.names, per_class(index).tolist(), strict=True))
