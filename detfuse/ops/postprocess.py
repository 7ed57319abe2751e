"""How the candidates of one image become its detections: NMS, soft-NMS, weighted box fusion.

Each class keeps the contract :class:`~detfuse.protocols.Combine`: boxes (k, 4) xyxy pixels clipped to the image, scores
(k,), labels (k,), levels (k,) on one device; rows with score 0 are padding. The result is best first, ties in the order
given. Classes do not meet unless ``class_agnostic`` says so. A score of NaN (outputs that are not finite, see
:mod:`detfuse.heads.candidates`) is above all others and stays, so that whoever reads the detections can tell of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from detfuse.ops.boxes import pairwise_iou
from detfuse.ops.calibration import calibrated, require_lines
from detfuse.ranges import FiniteFloat, Fraction, PositiveFloat, PositiveInt, checked
from detfuse.structures import Detections


@checked
class Nms:
    """Greedy non-maximum suppression: a box goes if a better one of its class overlaps it by more than the threshold.

    On a CPU each class has its own call, which is exact. On a GPU a call per class is slow, so the classes are moved
    apart and share one call; in float64, where the shift costs no precision that could matter.

    Args:
        iou_threshold: 0..1. The papers have .6 for FCOS and .5 for RetinaNet; one default, so that comparing heads
            does not compare thresholds.
        max_detections: most detections of an image, over all classes.
        class_agnostic: suppress across classes.
        calibration: (slope, offset) of every level's scores (:mod:`detfuse.ops.calibration`), finest first; ``platt``
            asks for what is fitted before a checkpoint is scored, and until then leaves the scores as they are.
    """

    def __init__(
        self,
        *,
        iou_threshold: Fraction = 0.6,
        max_detections: PositiveInt = 100,
        class_agnostic: bool = False,
        calibration: Sequence[Sequence[FiniteFloat]] | Literal["platt"] | None = None,
    ) -> None:
        self.iou_threshold = iou_threshold
        self.max_detections = max_detections
        self.class_agnostic = class_agnostic
        self.lines = None if calibration == "platt" else calibration

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, levels: Tensor) -> Detections:
        candidates = _sorted_candidates(boxes, scores, labels, levels, self.lines)
        kept = self._kept(candidates)[: self.max_detections]
        return _select(candidates, kept)

    def _kept(self, candidates: Detections) -> Tensor:
        """Ascending rows, which is best first."""
        boxes, scores, labels, _ = candidates
        if self.class_agnostic or not len(boxes):
            kept = [nms(boxes, scores, self.iou_threshold)]
        elif boxes.is_cuda:
            apart = boxes.double() + (labels * (boxes.max().double() + 1))[:, None]
            kept = [nms(apart, scores.double(), self.iou_threshold)]
        else:
            kept = self._kept_per_class(boxes, scores, labels)
        return torch.cat(kept).sort().values

    def _kept_per_class(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> list[Tensor]:
        kept = []
        for label in torch.unique(labels):
            rows = (labels == label).nonzero().flatten()
            kept.append(rows[nms(boxes[rows], scores[rows], self.iou_threshold)])
        return kept


@checked
class SoftNms:
    """Soft-NMS: an overlapping box loses score instead of going.

    Source: Bodla, Singh, Chellappa, Davis, "Soft-NMS: Improving Object Detection With One Line of Code", 2017,
    https://arxiv.org/abs/1704.04503. After a box M is taken, each remaining box b of its class has its score multiplied
    by ``exp(-iou(M, b)^2 / sigma)`` (gaussian) or by ``1 - iou(M, b)`` if that iou exceeds the threshold (linear).
    The loop stops after ``max_detections`` boxes, which changes nothing: scores only fall, so boxes are taken in order.

    Args:
        method: the rule of decay.
        sigma: width of the gaussian; unused by ``linear``.
        iou_threshold: 0..1, where the linear decay begins; unused by ``gaussian``.
        score_threshold: boxes that fall below are dropped.
        max_detections: most detections of an image, over all classes.
        class_agnostic: lower the scores of other classes too.
        calibration: see :class:`Nms`.
    """

    def __init__(
        self,
        *,
        method: Literal["gaussian", "linear"] = "gaussian",
        sigma: PositiveFloat = 0.5,
        iou_threshold: Fraction = 0.3,
        score_threshold: Fraction = 0.001,
        max_detections: PositiveInt = 100,
        class_agnostic: bool = False,
        calibration: Sequence[Sequence[FiniteFloat]] | Literal["platt"] | None = None,
    ) -> None:
        self.method = method
        self.sigma = sigma
        self.iou_threshold = iou_threshold
        self.score_threshold = score_threshold
        self.max_detections = max_detections
        self.class_agnostic = class_agnostic
        self.lines = None if calibration == "platt" else calibration

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, levels: Tensor) -> Detections:
        candidates = _sorted_candidates(boxes, scores, labels, levels, self.lines)
        boxes, remaining, labels, levels = candidates
        if not len(boxes):
            return candidates
        is_taken = torch.zeros_like(labels, dtype=torch.bool)
        rows, taken_scores = [], []
        for _ in range(min(self.max_detections, len(boxes))):
            # argmax gives the first of several, which keeps the order given. Nothing here waits for the device.
            best = remaining.masked_fill(is_taken, -1).argmax()
            rows.append(best)
            taken_scores.append(remaining[best])
            is_taken = is_taken.index_fill(0, best, True)
            decay = self._decay(pairwise_iou(boxes[best][None, None], boxes)[0, 0])
            lowered = remaining * decay
            remaining = lowered if self.class_agnostic else torch.where(labels == labels[best], lowered, remaining)
        taken, scores = torch.stack(rows), torch.stack(taken_scores)
        alive = ~(scores < self.score_threshold)  # not of >= : NaN stays
        return _select(Detections(boxes[taken], scores, labels[taken], levels[taken]), alive)

    def _decay(self, iou: Tensor) -> Tensor:
        if self.method == "gaussian":
            return torch.exp(-(iou**2) / self.sigma)
        return torch.where(iou > self.iou_threshold, 1 - iou, 1.0)


@checked
class WeightedBoxFusion:
    """Weighted box fusion over pyramid levels: overlapping boxes of a class are averaged instead of dropped.

    Source: Solovyev, Wang, Gabruseva, "Weighted boxes fusion: Ensembling boxes from different object detection models",
    2021, https://arxiv.org/abs/1910.13302. The paper fuses several models; here the pyramid's levels take their place.
    Boxes of a class, from all levels, are visited best first: a box joins the cluster whose fused box it overlaps most,
    if by more than the threshold, else it opens a cluster. A fused box is the mean of its members weighted by their
    scores; its level, and its class if classes meet, is that of its best member.

    Deviations: levels instead of models; one level may contribute several boxes to a cluster (a dense head's level
    predicts an object more than once); a cluster's score is by default the plain mean of its members', unscaled.

    Runs on the CPU, box by box: of the order of a tenth of a millisecond per candidate.

    Args:
        iou_threshold: 0..1, overlap above which a box joins a cluster.
        max_detections: most detections of an image, over all classes.
        score_scaling: ``none``; ``members`` multiplies by min(T, N) / N (the paper, eq. 6) for T members and N levels,
            which favours objects that several boxes agree on. N counts the distinct levels among all rows given,
            padding included.
        class_agnostic: boxes of different classes may join.
        calibration: see :class:`Nms`.
    """

    def __init__(
        self,
        *,
        iou_threshold: Fraction = 0.55,
        max_detections: PositiveInt = 100,
        score_scaling: Literal["none", "members"] = "none",
        class_agnostic: bool = False,
        calibration: Sequence[Sequence[FiniteFloat]] | Literal["platt"] | None = None,
    ) -> None:
        self.iou_threshold = iou_threshold
        self.max_detections = max_detections
        self.score_scaling = score_scaling
        self.class_agnostic = class_agnostic
        self.lines = None if calibration == "platt" else calibration

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, levels: Tensor) -> Detections:
        num_levels = torch.unique(levels).numel()
        candidates = _sorted_candidates(boxes, scores, labels, levels, self.lines)
        columns = Detections(*(column.cpu() for column in candidates))
        corners, confidence = columns.boxes.double().numpy(), columns.scores.double().numpy()
        label_of = np.zeros(len(confidence)) if self.class_agnostic else columns.labels.numpy()
        fused = np.empty_like(corners)
        new_scores = np.empty_like(confidence)
        rows: list[int] = []  # a cluster is known by its first member, its best
        for label in np.unique(label_of):
            for members in self._clusters(corners, confidence, np.flatnonzero(label_of == label)):
                first = members[0]
                rows.append(first)
                fused[first] = np.average(corners[members], axis=0, weights=confidence[members])
                new_scores[first] = confidence[members].mean()
                if self.score_scaling == "members":
                    new_scores[first] *= min(len(members), num_levels) / num_levels
        rows.sort()
        best = sorted(rows, key=lambda row: -new_scores[row])[: self.max_detections]
        kept = torch.tensor(best, dtype=torch.int64, device=boxes.device)
        return _select(candidates, kept)._replace(
            boxes=torch.from_numpy(fused[best]).to(boxes.device, torch.float32),
            scores=torch.from_numpy(new_scores[best]).to(boxes.device, torch.float32),
        )

    def _clusters(
        self, corners: NDArray[np.float64], confidence: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> list[list[int]]:
        """Rows of each cluster of one class, best member first."""
        clusters: list[list[int]] = []
        fused = np.empty((len(rows), 4))
        sums = np.empty((len(rows), 5))  # of score * box, of score
        for row in rows.tolist():
            iou = _iou(corners[row], fused[: len(clusters)])
            match = int(iou.argmax()) if len(clusters) else 0
            weighted = np.append(confidence[row] * corners[row], confidence[row])
            if len(clusters) and iou[match] > self.iou_threshold:
                clusters[match].append(row)
                sums[match] += weighted
                fused[match] = sums[match, :4] / sums[match, 4]
            else:
                sums[len(clusters)], fused[len(clusters)] = weighted, corners[row]
                clusters.append([row])
        return clusters


def _sorted_candidates(
    boxes: Tensor, scores: Tensor, labels: Tensor, levels: Tensor, lines: Sequence[Sequence[float]] | None
) -> Detections:
    """Float32 candidates without padding, calibrated, best first, ties in the order given."""
    rows = (scores != 0).nonzero().flatten()  # not > 0: NaN stays
    boxes, scores, labels, levels = boxes[rows].float(), scores[rows].float(), labels[rows], levels[rows]
    if lines is not None:
        require_lines(lines, int(levels.max()) + 1 if len(levels) else 0)
        scores = calibrated(scores, levels, lines)
    return _select(Detections(boxes, scores, labels, levels), scores.sort(descending=True, stable=True).indices)


def _select(detections: Detections, rows: Tensor) -> Detections:
    return Detections(*(column[rows] for column in detections))


def _iou(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Overlap (n,) of one box with n; 0 where both are empty."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared
    iou: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou
