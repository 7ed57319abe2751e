"""Non-maximum suppression with a fixed number of rows, as a loop that exporters keep: hard and soft are the same loop.

:mod:`detfuse.ops.postprocess` has the forms that training and evaluation use; their results depend on the data in
shape, which an exported graph, or the proposals of a compiled head, cannot have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

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
        """What is detected in one image.

        Args:
            boxes: (k, 4) xyxy.
            scores: (k,); 0 is no candidate, and NaN is none here (the file gives the candidates too).
            labels: (k,).

        Returns:
            Rows (M,) of the candidates taken, best first, their scores (M,), and how many there are (); the rest of
            the M ``max_detections`` rows is 0.
        """
        boxes, scores = boxes.float(), scores.float()
        places = torch.arange(len(scores), device=scores.device)
        slots = torch.arange(self.max_detections, device=scores.device)

        def goes_on(count: Tensor, remaining: Tensor, rows: Tensor, taken: Tensor) -> Tensor:
            return (count < self.max_detections) & (remaining.max() >= self.least)

        def take(count: Tensor, remaining: Tensor, rows: Tensor, taken: Tensor) -> tuple[Tensor, ...]:
            best = remaining.argmax()[None]  # of several the first, which keeps the order given
            score = remaining.index_select(0, best)
            iou = box_iou(boxes.index_select(0, best), boxes)[0]
            lowered = self._lowered(remaining, iou)
            if not self.across_classes:
                lowered = torch.where(labels == labels.index_select(0, best), lowered, remaining)
            here = slots == count
            return (
                count + 1,
                torch.where((places == best) | (remaining == _GONE), _GONE, lowered),
                torch.where(here, best, rows),
                torch.where(here, score, taken),
            )

        start = (
            torch.zeros((), dtype=torch.int64, device=scores.device),
            torch.where(scores > 0, scores, _GONE),
            torch.zeros_like(slots),
            torch.zeros_like(slots, dtype=torch.float32),
        )
        count, _, rows, taken = torch.while_loop(goes_on, take, start)  # type: ignore[no-untyped-call]  # torch's
        return rows, taken, count

    def _lowered(self, scores: Tensor, iou: Tensor) -> Tensor:
        if self.method == "gaussian":
            return scores * torch.exp(-(iou**2) / self.sigma)
        if self.method == "linear":
            return scores * torch.where(iou > self.iou_threshold, 1 - iou, 1.0)
        return torch.where(iou > self.iou_threshold, _GONE, scores)
