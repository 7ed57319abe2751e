"""COCO's matching of detections with objects, for a whole data set at once in numpy.

An engine only hands out its matches as one Python dictionary per image, class and area: half a minute and gigabytes on
5,000 images. Here the images and classes go side by side, one detection of each at a time, best score first. The
rules are those of ``COCOeval.evaluateImg`` (https://github.com/cocodataset/cocoapi); a test holds the curves that
follow from these matches equal to both engines' to the last bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detfuse.annotations import Annotations, Results
from detfuse.evaluation.engines import IOU_THRESHOLDS, MAX_DETECTIONS

# pycocotools' own numbers, not rounded ones: an IoU may lie on a threshold.
THRESHOLDS = np.linspace(0.5, 0.95, len(IOU_THRESHOLDS))
# Of all, small, medium and large objects: square pixels, both ends included.
AREA_RANGES = np.array([(0, 1e5**2), (0, 32**2), (32**2, 96**2), (96**2, 1e5**2)], np.float64)


class Matches(NamedTuple):
    """D detections (the best 100 of each image and class) by class, then image, then falling score.

    T is the number of IoU thresholds, A that of area ranges.

    Attributes:
        image: (D,) position of the image, from 0.
        category: (D,) position of the category, from 0.
        score: (D,).
        hit: (D, T, A) bool, found an object that counts.
        ignored: (D, T, A) bool, counts neither as right nor as wrong.
        object_image: (N,) position of each object's image.
        object_category: (N,) likewise.
        object_counts: (N, A) bool, is to be found: no crowd, of this area.
    """

    image: NDArray[np.int64]
    category: NDArray[np.int64]
    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    object_image: NDArray[np.int64]
    object_category: NDArray[np.int64]
    object_counts: NDArray[np.bool_]


def match(ground_truth: Annotations, predictions: Results) -> Matches:
    """Match by COCO's rules for boxes, at every IoU threshold and in every area range."""
    num_images, object_image = len(ground_truth), ground_truth.images
    cell = predictions.labels * num_images + predictions.images  # of one image and class
    order = np.lexsort((-predictions.scores, cell))  # stable: the order given decides among equal scores
    order = order[_rank_in_run(cell[order]) < MAX_DETECTIONS[-1]]
    cell, boxes = cell[order], predictions.boxes[order]

    object_cell = ground_truth.labels * num_images + object_image
    object_order = np.argsort(object_cell, kind="stable")
    counts = ground_truth.counted[:, None] & _in_range(ground_truth.areas)
    overlaps = _overlaps(cell, boxes, object_cell, object_order, ground_truth)

    hit = np.zeros((len(order), len(THRESHOLDS), len(AREA_RANGES)), np.bool_)
    ignored = np.repeat(~_in_range(boxes[:, 2] * boxes[:, 3])[:, None], len(THRESHOLDS), axis=1)
    _assign(overlaps, cell, counts, ground_truth.crowd, hit, ignored)
    return Matches(
        image=cell % num_images,
        category=cell // num_images,
        score=predictions.scores[order],
        hit=hit,
        ignored=ignored,
        object_image=object_image,
        object_category=ground_truth.labels,
        object_counts=counts,
    )


class _Overlaps(NamedTuple):
    """Pairs of a detection and an object of its image and class with an IoU of at least .5.

    By detection, then by IoU, then by the object's place in its cell: the last one allowed is COCO's choice.
    """

    detection: NDArray[np.int64]
    object: NDArray[np.int64]
    iou: NDArray[np.float64]


def _overlaps(
    cell: NDArray[np.int64],
    boxes: NDArray[np.float64],
    object_cell: NDArray[np.int64],
    object_order: NDArray[np.int64],
    ground_truth: Annotations,
) -> _Overlaps:
    cells = object_cell[object_order]
    first, last = np.searchsorted(cells, cell, "left"), np.searchsorted(cells, cell, "right")
    count = last - first
    detection = np.repeat(np.arange(len(cell)), count)
    place = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    target = object_order[place]
    iou = _iou(boxes[detection], ground_truth.boxes[target], ground_truth.crowd[target])
    kept = iou >= THRESHOLDS[0]
    detection, place, iou = detection[kept], place[kept], iou[kept]
    by = np.lexsort((place, iou, detection))
    return _Overlaps(detection[by], object_order[place[by]], iou[by])


def _assign(
    overlaps: _Overlaps,
    cell: NDArray[np.int64],
    counts: NDArray[np.bool_],
    crowd: NDArray[np.bool_],
    hit: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
) -> None:
    """Fill ``hit`` and ``ignored``: in round r, the r-th detection of every cell that overlaps anything."""
    taken = np.zeros((len(counts), *hit.shape[1:]), np.bool_)
    contenders, starts = np.unique(overlaps.detection, return_index=True)
    ends = np.append(starts[1:], len(overlaps.detection))
    rounds = _rank_in_run(cell[contenders])
    lengths = ends - starts
    for number in range(rounds.max(initial=-1) + 1):
        mine = np.flatnonzero(rounds == number)
        heads = np.cumsum(lengths[mine]) - lengths[mine]
        pairs = np.repeat(starts[mine] - heads, lengths[mine]) + np.arange(lengths[mine].sum())
        targets = overlaps.object[pairs]
        counting = counts[targets][:, None, :]
        free = ~taken[targets] | crowd[targets][:, None, None]
        free &= (overlaps.iou[pairs][:, None] >= THRESHOLDS)[:, :, None]
        # Any object that counts goes before any that is ignored.
        preference = np.where(free, np.arange(1, len(pairs) + 1)[:, None, None] + counting * len(pairs), 0)
        best = np.maximum.reduceat(preference, heads, axis=0)
        which, threshold, area = np.nonzero(best)
        chosen = targets[(best[which, threshold, area] - 1) % len(pairs)]
        taken[chosen, threshold, area] = True
        detection, right = contenders[mine][which], counts[chosen, area]
        hit[detection, threshold, area] = right
        ignored[detection, threshold, area] = ~right


def _iou(boxes: NDArray[np.float64], objects: NDArray[np.float64], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of xywh boxes, pair by pair, in pycocotools' order of operations; of a crowd, the share of the detection."""
    low = np.maximum(boxes[:, :2], objects[:, :2])
    width, height = (np.minimum(boxes[:, 2:] + boxes[:, :2], objects[:, 2:] + objects[:, :2]) - low).T
    shared = np.where((width > 0) & (height > 0), width * height, 0.0)
    area = boxes[:, 2] * boxes[:, 3]
    union = np.where(crowd, area, area + objects[:, 2] * objects[:, 3] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _in_range(area: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) square pixels -> (N, A)."""
    return (area[:, None] >= AREA_RANGES[:, 0]) & (area[:, None] <= AREA_RANGES[:, 1])


def _rank_in_run(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of every element among its equals, which stand together."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    lengths = np.diff(np.append(starts, len(values)))
    return np.arange(len(values)) - np.repeat(starts, lengths)
