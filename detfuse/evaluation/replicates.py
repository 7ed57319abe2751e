"""Exact COCO average precision of the same detections under other weights of the images.

AP is no mean over images, so its uncertainty from the choice of images comes from evaluating it again and again: on all
images but some (a jackknife), or with random weights (a bootstrap). Matching does not depend on weights and is done
once; a replicate only sums weights along the ranking of each class. With all weights 1 the numbers are pycocotools' to
the last digit, and an image of weight 2 counts as if it were there twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detfuse.annotations import Annotations, Results
from detfuse.errors import InputError
from detfuse.evaluation.engines import AREAS, IOU_THRESHOLDS
from detfuse.evaluation.ground_truth import annotations_of
from detfuse.evaluation.matches import Matches, match
from detfuse.evaluation.metrics import DEFINITIONS, UNDEFINED
from detfuse.evaluation.results import matched_ids, results_of
from detfuse.evaluation.rows import Row

RECALLS = np.linspace(0.0, 1.0, 101)
SUMMARY = tuple(name for name, definition in DEFINITIONS.items() if definition.precision)
FRACTION = 2.0**20  # weights are multiples of 1 / FRACTION: their sums are then exact, in any order
BATCH, LARGEST = 128, 8_000_000  # replicates at a time, and numbers in the largest array that they make


class ReplicateEvaluator:
    """Reads a ground truth once and matches any number of result files with it.

    Args:
        ground_truth: a data set, as :class:`detfuse.evaluation.CocoEvaluator` takes it.

    Raises:
        ValueError: if the ground truth cannot be evaluated; the message names the record.
    """

    def __init__(self, ground_truth: Annotations | Mapping[str, Any]) -> None:
        self._ground_truth = annotations_of(ground_truth)
        self.num_images = len(self._ground_truth)
        names = self._ground_truth.categories.names
        self.metrics: tuple[str, ...] = (*SUMMARY, *(f"mAP/{name}" for name in names))

    def match(self, predictions: Results | Sequence[Row]) -> Replicates:
        """Match results.

        Raises:
            ValueError: if a row names an unknown image or category, or has a number that is not finite.
        """
        return Replicates(self._ground_truth, matched_ids(results_of(predictions), self._ground_truth))


class Replicates:
    """The detections of one result file, ready to be scored under any weights of the images.

    Args:
        ground_truth: with the images in ascending order of their ids.
        predictions: checked, with the positions of that ground truth.

    Attributes:
        fingerprint: equal for equal detections, whatever their order in the file.
    """

    def __init__(self, ground_truth: Annotations, predictions: Results) -> None:
        self.num_images = len(ground_truth)
        num_classes = len(ground_truth.categories.ids)
        matches = match(ground_truth, predictions)
        self._rankings = [
            [_ranking(matches, category, area) for area in range(len(AREAS))] for category in range(num_classes)
        ]
        curves = len(AREAS) * len(IOU_THRESHOLDS) * len(RECALLS) * num_classes
        longest = max(len(ranking.images) for areas in self._rankings for ranking in areas)
        self._size = min(max(LARGEST // max(curves, longest), 1), BATCH)
        self.fingerprint = _fingerprint(predictions)
        self._unweighted = self._precisions(np.ones((self.num_images, 1)))

    def evaluate(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The average precisions under each of B weightings.

        Args:
            weights: (B, images in ascending order of their ids), at least 0; rounded to multiples of 2^-20.

        Returns:
            (B, 6 + number of categories): ``mAP AP50 AP75 APs APm APl``, then the mAP of each category, 0..1; -1 where
            undefined. The six are means over the same classes in every replicate, those with objects in the full set:
            a class whose objects all have weight 0 has no value of its own there and enters with that of the full set.

        Raises:
            ValueError: if the weights have another shape, or are negative or not finite.
        """
        return self._in_batches(weights, self._batch)

    def resampled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the average precisions might be on other images like these, by B random weightings.

        Other images also have other numbers of objects of each class. So a class enters the six means times the weight
        of its objects, which on average is 1. Of a class with many images that changes next to nothing; one whose
        objects lie in a single image, and whose AP therefore is the same under all weights, is as uncertain as it is
        large. Its own value says nothing of other images.

        Args:
            weights: as :meth:`evaluate` takes them, of mean 1.

        Returns:
            (B, 6 + number of categories) like :meth:`evaluate`, but for the means; -1 for a class that has objects in
            fewer than two images.

        Raises:
            ValueError: see :meth:`evaluate`.
        """
        return self._in_batches(weights, self._resampled)

    def _in_batches(
        self, weights: NDArray[np.float64], score: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        if weights.ndim != 2 or weights.shape[1] != self.num_images:
            raise InputError(f"weights are {weights.shape}, expected (replicates, {self.num_images} images)")
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise InputError("weights must be finite and at least 0")
        exact = np.round(weights * FRACTION) / FRACTION
        batches = [score(exact[start : start + self._size]) for start in range(0, len(exact), self._size)]
        return np.concatenate(batches) if batches else np.zeros((0, len(SUMMARY) + len(self._rankings)))

    def _batch(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        precision = self._precisions(np.ascontiguousarray(weights.T))
        columns = [_means(precision, None, "all", slice(k, k + 1)) for k in range(len(self._rankings))]
        np.copyto(precision, self._unweighted, where=precision == UNDEFINED)
        summary = [_means(precision, *DEFINITIONS[name][1:3], slice(None)) for name in SUMMARY]
        return np.stack([*summary, *columns], axis=1)

    def _resampled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        precision = self._precisions(np.ascontiguousarray(weights.T))
        np.copyto(precision, self._unweighted, where=precision == UNDEFINED)
        columns = [_means(precision, None, "all", slice(k, k + 1)) for k in range(len(self._rankings))]
        single = [len(set(areas[AREAS.index("all")].objects.tolist())) < 2 for areas in self._rankings]
        summary = [self._weighted_mean(precision, weights, *DEFINITIONS[name][1:3]) for name in SUMMARY]
        values = np.stack([*summary, *columns], axis=1)
        values[:, len(SUMMARY) :][:, single] = UNDEFINED
        return values

    def _weighted_mean(
        self, precision: NDArray[np.float64], weights: NDArray[np.float64], iou: float | None, area: str
    ) -> NDArray[np.float64]:
        """(A, B, T, R, K) -> (B,): every class times the weight of its objects."""
        kept = [k for k, areas in enumerate(self._rankings) if len(areas[AREAS.index(area)].objects)]
        if not kept:
            return np.full(len(weights), UNDEFINED)
        values = np.stack([_means(precision, iou, area, slice(k, k + 1)) for k in kept])
        presence = np.stack([weights[:, self._rankings[k][AREAS.index(area)].objects].mean(axis=1) for k in kept])
        return np.asarray((values * presence).mean(axis=0))

    def _precisions(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(images, B) -> (A, B, T, R, K); -1 where no object has weight."""
        shape = (len(AREAS), weights.shape[1], len(IOU_THRESHOLDS), len(RECALLS), len(self._rankings))
        precision = np.full(shape, UNDEFINED)
        for category, areas in enumerate(self._rankings):
            for area, ranking in enumerate(areas):
                if len(ranking.objects):
                    precision[area, ..., category] = _precision(ranking, weights)
        return precision


class _Ranking(NamedTuple):
    """One class in one area range: what counts, best score first, down to the last hit.

    Attributes:
        images: (D,) of the detections that count at one IoU threshold at least.
        hits: per threshold, positions among them.
        ignored: per threshold, positions of those that do not count there.
        objects: (P,) images of the objects to be found.
    """

    images: NDArray[np.int64]
    hits: tuple[NDArray[np.int64], ...]
    ignored: tuple[NDArray[np.int64], ...]
    objects: NDArray[np.int64]


def _ranking(matches: Matches, category: int, area: int) -> _Ranking:
    start, end = np.searchsorted(matches.category, [category, category + 1])
    # Stable over ascending images: COCO's order among equal scores.
    order = start + np.argsort(-matches.score[start:end], kind="stable")
    hit, ignored = matches.hit[order, :, area], matches.ignored[order, :, area]
    # Precision counts at hits only: what is ranked below the last one, or never counts, changes nothing.
    below = np.arange(len(order)) > np.flatnonzero(hit.any(1)).max(initial=-1)
    kept = ~below & ~ignored.all(1)
    counted = (matches.object_category == category) & matches.object_counts[:, area]
    return _Ranking(
        images=matches.image[order[kept]],
        hits=tuple(np.flatnonzero(column) for column in hit[kept].T),
        ignored=tuple(np.flatnonzero(column) for column in ignored[kept].T),
        objects=matches.object_image[counted],
    )


def _precision(ranking: _Ranking, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(images, B) -> (B, T, R) interpolated precision; -1 where no object has weight."""
    batch = weights.shape[1]
    objects = weights[ranking.objects].sum(axis=0)
    counted = np.cumsum(weights[ranking.images], axis=0)
    result = np.zeros((batch, len(ranking.hits), len(RECALLS)))
    columns = np.arange(batch)
    for threshold, (hits, ignored) in enumerate(zip(ranking.hits, ranking.ignored, strict=True)):
        if not len(hits):
            continue
        found = np.cumsum(weights[ranking.images[hits]], axis=0)
        total = counted[hits]
        if len(ignored):
            passed = np.cumsum(np.vstack([np.zeros(batch), weights[ranking.images[ignored]]]), axis=0)
            total -= passed[np.searchsorted(ignored, hits)]
        recall = np.divide(found, objects, out=np.zeros_like(found), where=objects > 0)
        precision = np.divide(found, total + np.spacing(1), out=found)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        first = _first_reaching(recall)
        reached = first < len(hits)
        result[:, threshold] = np.where(reached, envelope[np.minimum(first, len(hits) - 1), columns], 0.0).T
    result[objects <= 0] = UNDEFINED
    return result


def _first_reaching(recall: NDArray[np.float64]) -> NDArray[np.int64]:
    """(P, B) rising recalls -> (R, B) first position that reaches each of the 101 recalls, P if none does."""
    size, batch = recall.shape
    slots = len(RECALLS) + 1
    if size > 3 * slots:
        return np.stack([np.searchsorted(column, RECALLS) for column in recall.T], axis=1)
    # How many of the 101 each position reaches; those that reach r or fewer lie before the one sought.
    reaches = np.searchsorted(RECALLS, recall, side="right") + slots * np.arange(batch)
    return np.cumsum(np.bincount(reaches.ravel(), minlength=slots * batch).reshape(batch, slots)[:, :-1], axis=1).T


def _means(precision: NDArray[np.float64], iou: float | None, area: str, classes: slice) -> NDArray[np.float64]:
    """(A, B, T, R, K) -> (B,): in pycocotools' order of summation, over what is defined."""
    thresholds = slice(None) if iou is None else slice(IOU_THRESHOLDS.index(iou), IOU_THRESHOLDS.index(iou) + 1)
    values = precision[AREAS.index(area), :, thresholds, :, classes].reshape(precision.shape[1], -1)
    defined = values > UNDEFINED
    if defined.all():
        return np.asarray(values.mean(axis=1))
    return np.array([row[kept].mean() if kept.any() else UNDEFINED for row, kept in zip(values, defined, strict=True)])


def _fingerprint(predictions: Results) -> bytes:
    columns = [predictions.images, predictions.labels, predictions.scores, *predictions.boxes.T]
    return sha256(np.stack(columns)[:, np.lexsort(columns)].tobytes()).digest()
