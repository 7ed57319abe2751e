"""What a score of each level is worth: a line in the logit per level, fitted to whether candidates lie on objects.

Title: On Calibration of Modern Neural Networks (Guo et al.), 2017, of the method of Platt (1999)
URL: https://arxiv.org/abs/1706.04599, section 4.1
Variant: p = sigmoid(a logit(s) + b) with a > 0, by maximum likelihood, for each level of a detector by itself. Within a
level the order of the candidates stays; between levels it changes, which is what a combination of levels sees.
Deviations: a prior on log a and b (normal, of mean 0 and variance 1) takes the place of Platt's smoothed targets: a
level with few candidates, or with hits only, stays near what it says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from detfuse.errors import InputError

Line = tuple[float, float]
"""(a, b) of a level."""

_HIT = 0.5  # least IoU with an object
_EDGE = 1e-6  # scores of 0 and 1 have no logit


def calibrated(scores: Tensor, levels: Tensor, lines: Sequence[Sequence[float]]) -> Tensor:
    """Scores (..., k) by the lines of their levels (..., k); of padding (score 0) and NaN as they are."""
    slope, offset = torch.tensor([list(line) for line in lines], device=scores.device)[levels].unbind(-1)
    found = (slope * torch.logit(scores.float(), _EDGE) + offset).sigmoid()
    return torch.where((scores == 0) | scores.isnan(), scores, found.to(scores.dtype))


def require_lines(lines: Sequence[Sequence[float]], num_levels: int) -> None:
    """See that there is a line, a positive slope and an offset, for every level.

    Raises:
        InputError: naming what is wrong.
    """
    for line in lines:
        if len(line) != 2 or line[0] <= 0:
            raise InputError(f"combine.calibration: {list(line)} is no slope above 0 with an offset")
    if len(lines) < num_levels:
        raise InputError(
            f"combine.calibration has {len(lines)} lines and the candidates are of {num_levels} levels: it was fitted "
            "to another detector; combine.calibration=platt fits it anew"
        )


def fitted_lines(scores: Tensor, hits: Tensor, levels: Tensor, num_levels: int) -> list[Line]:
    """The line of every level.

    Args:
        scores: (k,) of candidates, above 0.
        hits: (k,) bool, whether each lies on an object.
        levels: (k,) in 0..num_levels - 1.
        num_levels: how many lines; that of a level without candidates is (1, 0), which changes nothing.
    """
    return [_line(scores[levels == level], hits[levels == level]) for level in range(num_levels)]


def _line(scores: Tensor, hits: Tensor) -> Line:
    logits, wanted = torch.logit(scores.double(), _EDGE), hits.double()
    at = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log a, b
    search = torch.optim.LBFGS([at], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        told = at[0].exp() * logits + at[1]
        value = functional.binary_cross_entropy_with_logits(told, wanted, reduction="sum") + at.square().sum() / 2
        value.backward()  # type: ignore[no-untyped-call]  # torch's
        return value

    with torch.enable_grad():
        search.step(loss)  # type: ignore[no-untyped-call]  # torch's
    return float(at[0].detach().exp()), float(at[1].detach())


def on_objects(boxes: Tensor, labels: Tensor, objects: Tensor, classes: Tensor, crowd: Tensor) -> tuple[Tensor, Tensor]:
    """Whether candidates lie on an object of their class, and whether they count at all.

    Args:
        boxes: (k, 4) xyxy.
        labels: (k,).
        objects: (N, 4) xyxy in the same pixels.
        classes: (N,) their labels.
        crowd: (N,) which of them are crowds: what lies in one is neither right nor wrong.

    Returns:
        Hits (k,) bool, by an IoU of at least .5; and counted (k,) bool.
    """
    iou = functional.pad(box_iou(boxes, objects) * (labels[:, None] == classes), (0, 1))  # there may be no object
    crowd = functional.pad(crowd, (0, 1))
    hits = iou.masked_fill(crowd, 0).amax(1) >= _HIT
    return hits, hits | (iou.masked_fill(~crowd, 0).amax(1) == 0)
