"""Non-maximum suppression with a fixed number of rows: what an exported graph, or the proposals of a head, need.

:mod:`detfuse.ops.postprocess` has the forms by which candidates become detections; their results depend on the data in
shape. :class:`Suppression` is a loop that exporters keep, the same for hard and soft. :func:`best_apart` is for
batches: torchvision's NMS behind an operator of fixed shape, which compilers leave as it is, and in exported graphs
that loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from detfuse.ops.boxes import pairwise_iou
from detfuse.ops.postprocess import Nms, SoftNms

_GONE = -1.0


class Suppression(nn.Module):
    """Takes the best candidate again and again, and each time lowers the scores of those that overlap it.

    Equals :class:`~detfuse.ops.postprocess.Nms` and :class:`~detfuse.ops.postprocess.SoftNms`: of equal scores the
    first given is taken first, and nothing after ``max_detections`` could change what was taken before.

    Args:
        combine: which of the two, with its settings.
    """

    def __init__(self, combine: Nms | SoftNms) -> None:
        super().__init__()
        self.max_detections = combine.max_detections
        self.iou_threshold = combine.iou_threshold
        self.across_classes = combine.class_agnostic
        self.method = combine.method if isinstance(combine, SoftNms) else "hard"
        self.sigma = combine.sigma if isinstance(combine, SoftNms) else 1.0
        self.least = combine.score_threshold if isinstance(combine, SoftNms) else 0.0

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is detected in each image.

        Args:
            boxes: (B, k, 4) xyxy.
            scores: (B, k); 0 is no candidate, and NaN is none here (the file gives the candidates too).
            labels: (B, k).

        Returns:
            Rows (B, M) of the candidates taken, best first, their scores (B, M), and how many there are (B,); the rest
            of the M ``max_detections`` rows is 0.
        """
        return _suppressed(
            boxes,
            scores,
            labels,
            lowered=self._lowered,
            limit=self.max_detections,
            least=self.least,
            across_classes=self.across_classes,
        )

    def _lowered(self, scores: Tensor, iou: Tensor) -> Tensor:
        if self.method == "gaussian":
            return scores * torch.exp(-(iou**2) / self.sigma)
        if self.method == "linear":
            return scores * torch.where(iou > self.iou_threshold, 1 - iou, 1.0)
        return _without(scores, iou, self.iou_threshold)


def _without(scores: Tensor, iou: Tensor, threshold: float) -> Tensor:
    """Scores of boxes that overlap the one that was taken: what overlaps it by more than the threshold is gone."""
    return torch.where(iou > threshold, _GONE, scores)


def _suppressed(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    lowered: Callable[[Tensor, Tensor], Tensor],
    limit: int,
    least: float,
    across_classes: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loop, over all images at once; see :meth:`Suppression.forward`."""
    boxes, scores = boxes.float(), scores.float()
    places = torch.arange(scores.shape[1], device=scores.device)
    slots = torch.arange(limit, device=scores.device)

    def goes_on(step: Tensor, count: Tensor, remaining: Tensor, rows: Tensor, taken: Tensor) -> Tensor:
        return (step < limit) & (remaining.max() >= least)

    def take(step: Tensor, count: Tensor, remaining: Tensor, rows: Tensor, taken: Tensor) -> tuple[Tensor, ...]:
        best = remaining.argmax(dim=1, keepdim=True)  # of several the first, which keeps the order given
        score = remaining.gather(1, best)
        box = boxes.gather(1, best[..., None].expand(-1, -1, 4))
        left = lowered(remaining, pairwise_iou(box, boxes[:, None])[:, 0])
        if not across_classes:
            left = torch.where(labels == labels.gather(1, best), left, remaining)
        found = score >= least  # other images may have more
        here = (slots == step) & found
        return (
            step + 1,
            count + found[:, 0],
            torch.where((places == best) | (remaining == _GONE), _GONE, left),
            torch.where(here, best, rows),
            torch.where(here, score, taken),
        )

    images = scores.shape[0]
    start = (
        torch.zeros((), dtype=torch.int64, device=scores.device),
        torch.zeros(images, dtype=torch.int64, device=scores.device),
        torch.where(scores > 0, scores, _GONE),
        torch.zeros(images, limit, dtype=torch.int64, device=scores.device),
        torch.zeros(images, limit, device=scores.device),
    )
    _, count, _, rows, taken = torch.while_loop(goes_on, take, start)  # type: ignore[no-untyped-call]  # torch's
    return rows, taken, count


def best_apart(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """The best boxes of each image, without those that a better one of their group overlaps too much.

    Args:
        boxes: (B, k, 4) xyxy.
        scores: (B, k); 0 is no box, NaN (boxes of zeros) is above all others and stays.
        groups: (B, k) int64, which boxes suppress each other: those of one level, or of one class.
        iou_threshold: boxes that overlap by more do not stay together.
        limit: most boxes of an image, over all groups.

    Returns:
        Rows (B, R) of the boxes that stay, best first, and their scores (B, R), which are 0 where there are no more:
        R = min(limit, k). Without gradient.
    """
    boxes, scores, limit = boxes.detach().float(), scores.detach().float(), min(limit, scores.shape[1])
    if torch.compiler.is_exporting():
        hard = partial(_without, threshold=iou_threshold)
        ordered = torch.where(scores.isnan(), torch.inf, scores)  # the loop takes NaN for no box
        rows, taken, _ = _suppressed(boxes, ordered, groups, lowered=hard, limit=limit, least=0.0, across_classes=False)
        return rows, torch.where(taken.isinf(), torch.nan, taken)
    kept = kept_by_nms(boxes, scores, groups, iou_threshold)
    taken, rows = torch.where(kept, scores, 0.0).topk(limit, dim=1)
    return rows, taken


@torch.library.custom_op("detfuse::kept_by_nms", mutates_args=())
def kept_by_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes torchvision's NMS keeps, (B, k) bool; see :func:`best_apart`."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image, (of_image, scored, grouped) in enumerate(zip(boxes, scores, groups, strict=True)):
        rows = (scored != 0).nonzero().flatten()  # not > 0: NaN stays
        kept[image, rows[batched_nms(of_image[rows], scored[rows], grouped[rows], iou_threshold)]] = True
    return kept


@kept_by_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)
