"""What may be wrong with boxes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from detfuse.data.doctor.case import SHOWN, Case, Found, objects_at, percent
from detfuse.data.index import AnnotationIndex

TWIN_IOU = 0.95
THIN = 2.0  # pixels of the file
LONG = 20.0  # longer by shorter side
WHOLE = 0.99  # of the image's height, and of its width
TINY = 3.0  # pixels of the resized image

Rows = npt.NDArray[np.int64]


def twins(case: Case) -> Iterator[Found]:
    """Objects of which another of the same class is a copy."""
    for split, index in case.indexes.items():
        rows = twins_of(index)
        yield Found(split, len(rows), int(index.counted.sum()), "objects", objects_at(index, rows))


def twins_of(index: AnnotationIndex) -> Rows:
    """Rows of the later ones of such pairs, each once.

    In the order of their left sides the other of a pair cannot be far: with such an overlap it begins within 5 % of
    the width. So rows are compared with the next, then with the next but one, as long as there are any as near.
    """
    x, y, w, h = index.boxes.T
    order = np.lexsort((x, index.labels, index.images))
    order = order[index.counted[order]]
    key = index.images * len(index.categories) + index.labels
    found = np.zeros(len(key), np.bool_)
    firsts = np.arange(len(order))
    for step in range(1, len(order)):
        firsts = firsts[firsts + step < len(order)]
        a, b = order[firsts], order[firsts + step]
        near = (key[a] == key[b]) & (x[b] - x[a] <= (1 - TWIN_IOU) * w[a])
        firsts, a, b = firsts[near], a[near], b[near]
        if not len(firsts):
            break
        across = np.minimum(x[a] + w[a], x[b] + w[b]) - np.maximum(x[a], x[b])
        along = np.minimum(y[a] + h[a], y[b] + h[b]) - np.maximum(y[a], y[b])
        both = across.clip(0) * along.clip(0)
        twin = both > TWIN_IOU * (w[a] * h[a] + w[b] * h[b] - both)
        found[np.maximum(a[twin], b[twin])] = True
    return np.flatnonzero(found)


def slivers(case: Case) -> Iterator[Found]:
    """Boxes that are hardly more than a line."""
    for split, index in case.indexes.items():
        short, long = np.sort(index.boxes[:, 2:], axis=1).T
        yield _objects(split, index, (short < THIN) | (long > LONG * short))


def whole_images(case: Case) -> Iterator[Found]:
    """Boxes as large as their image."""
    for split, index in case.indexes.items():
        shares = index.boxes[:, 2:] / index.sizes[index.images][:, ::-1]
        yield _objects(split, index, shares.min(axis=1) >= WHOLE)


def tiny(case: Case) -> Iterator[Found]:
    """Objects of which resizing leaves next to nothing."""
    for split, index in case.indexes.items():
        yield _objects(split, index, sides_at_training(case, index).min(axis=1) < TINY)


def sides_at_training(case: Case, index: AnnotationIndex) -> npt.NDArray[np.float64]:
    """(A, 2) width and height of every box in the resized image."""
    kinds, of_image = np.unique(index.sizes, axis=0, return_inverse=True)
    resized = np.array([case.transform.resized(height, width) for height, width in kinds.tolist()], np.float64)
    scales = (resized.reshape(-1, 2) / kinds)[:, ::-1][of_image.reshape(-1)]
    sides: npt.NDArray[np.float64] = index.boxes[:, 2:] * scales[index.images]
    return sides


def too_many(case: Case) -> Iterator[Found]:
    """Images with more objects than a detector hands out, or than the metric counts of a class."""
    for split, index in case.indexes.items():
        images, labels = index.images[index.counted], index.labels[index.counted]
        keys, per_class = np.unique(images * len(index.categories) + labels, return_counts=True)
        fullest = np.zeros(len(index), np.int64)
        np.maximum.at(fullest, keys // len(index.categories), per_class)
        per_image = np.bincount(images, minlength=len(index))
        scored = percent(np.minimum(per_class, case.scored_detections).sum(), len(images))
        told = [f"at most {scored} among the {case.scored_detections} of a class that COCO's numbers count"]
        beyond = fullest > case.scored_detections
        if case.max_detections is not None:
            beyond |= per_image > case.max_detections
            kept = percent(np.minimum(per_image, case.max_detections).sum(), len(images))
            told.insert(0, f"at most {kept} of them with combine.max_detections={case.max_detections}")
        positions = np.flatnonzero(beyond)
        positions = positions[np.argsort(-per_image[positions], kind="stable")]
        first = [f"{index.file_names[at]} ({per_image[at]})" for at in positions[:SHOWN].tolist()]
        yield Found(split, len(positions), len(index), "images", first, "; ".join(told))


def _objects(split: str, index: AnnotationIndex, mask: npt.NDArray[np.bool_]) -> Found:
    rows = np.flatnonzero(mask & index.counted)
    return Found(split, len(rows), int(index.counted.sum()), "objects", objects_at(index, rows))
