"""Between the stages of a two-stage head: proposals, the sample of them that is learnt, and what each learns.

Every number of rows is fixed for one padded shape: rows that are no proposal, or more than an image has, are marked and
weigh nothing, so that compilers see no shape that depends on the data.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detfuse.ops.matching import Crowd, boxes_in_crowds, match_rois
from detfuse.ops.suppression import best_apart
from detfuse.structures import Batch

MIN_SIDE = 1e-3
"""Pixels that a proposal must exceed in width and height (torchvision)."""


class Proposals(NamedTuple):
    """Where objects may be, R rows per image, best first; without gradient.

    Attributes:
        boxes: (B, R, 4) float32 xyxy, clipped to the images; any box where there is no proposal.
        scores: (B, R): 0 is no proposal, NaN one of outputs that are not finite (its box is of zeros).
    """

    boxes: Tensor
    scores: Tensor


def propose(
    candidates: tuple[Tensor, Tensor, Tensor, Tensor], *, limit: int, iou_threshold: float, across_levels: bool = False
) -> Proposals:
    """The best candidates of a first stage, by non-maximum suppression.

    Args:
        candidates: of a dense head: boxes (B, k, 4), scores, labels, levels (B, k).
        limit: most proposals of an image.
        iou_threshold: of the suppression.
        across_levels: whether boxes of different levels suppress each other.
    """
    boxes, scores, _, levels = candidates
    groups = torch.zeros_like(levels) if across_levels else levels
    rows, taken = best_apart(boxes, scores, groups, iou_threshold=iou_threshold, limit=limit)
    return Proposals(boxes.detach().gather(1, rows[..., None].expand(-1, -1, 4)), taken)


class SampledRows(NamedTuple):
    """Which rows of each image learn, positives first.

    Attributes:
        rows: (B, S) int64; where an image has too few, its rows again, so that statistics over a sample (batch norms)
            see nothing else.
        taken: (B, S) bool, false for what is there again or is no row that learns.
    """

    rows: Tensor
    taken: Tensor


def draw_sample(positive: Tensor, negative: Tensor, size: int, positive_fraction: float) -> SampledRows:
    """At most ``size`` rows at random, of them at most this fraction positives; the rest negatives (Fast R-CNN, 2015).

    With ``size`` at least the number of rows and room for all positives everything is taken.

    Args:
        positive: (B, A) bool.
        negative: (B, A) bool.
        size: S, or all A if that is less.
        positive_fraction: of ``size``.
    """
    count = positive.shape[1]
    most = min(int(size * positive_fraction), count)
    draw = torch.rand(positive.shape, device=positive.device)
    order = torch.where(negative, draw, -1.0)
    if most:
        drawn, first = torch.where(positive, draw, -1.0).topk(most, dim=1)
        order = order.scatter(1, first, torch.where(drawn >= 0, drawn + 2.0, order.gather(1, first)))
    values, rows = order.topk(min(size, count), dim=1)
    taken = values >= 0
    places = torch.arange(rows.shape[1], device=rows.device) % taken.sum(1, keepdim=True).clamp(min=1)
    return SampledRows(rows.gather(1, places), taken)


class Rois(NamedTuple):
    """The regions of interest that the second stage learns from, S rows per image.

    Attributes:
        boxes: (B, S, 4) float32 xyxy.
        classes: (B, S) int64: 0 background, k + 1 class k.
        objects: (B, S, 4) float32, the object's box; any box where there is none.
        taken: (B, S) bool, what counts; the others are there for the shape.
    """

    boxes: Tensor
    classes: Tensor
    objects: Tensor
    taken: Tensor

    @property
    def positive(self) -> Tensor:
        """(B, S) bool, what learns an object."""
        return self.taken & (self.classes > 0)


def sample_rois(
    proposals: Proposals,
    batch: Batch,
    *,
    foreground_iou: float,
    background_iou: float,
    crowd: Crowd,
    size: int,
    positive_fraction: float,
) -> Rois:
    """Draw what the second stage learns from: proposals, and the objects themselves (as in torchvision).

    Args:
        proposals: of the first stage.
        batch: with the objects.
        foreground_iou: a region with at least this IoU learns the object.
        background_iou: one with less learns background; one in between is not drawn.
        crowd: what regions in a crowd learn that match no object.
        size: regions per image, S.
        positive_fraction: of them at most.
    """
    targets = batch.targets
    given = targets.boxes.float()
    boxes = torch.cat([proposals.boxes, given], dim=1)
    # a proposal of outputs that are not finite is drawn too, so that the loss tells of it
    exists = torch.cat([proposals.scores != 0, targets.valid], dim=1)
    match = match_rois(boxes, given, targets.valid, foreground_iou=foreground_iou, background_iou=background_iou)
    if crowd == "ignore":
        match = match.sparing(boxes_in_crowds(boxes, given, targets.ignore, batch.image_sizes))
    sample = draw_sample(match.positive & exists, match.negative & exists, size, positive_fraction)
    row, positive = match.row.gather(1, sample.rows), match.positive.gather(1, sample.rows)
    return Rois(
        boxes.gather(1, sample.rows[..., None].expand(-1, -1, 4)),
        torch.where(positive, targets.labels.gather(1, row) + 1, 0),
        given.gather(1, row[..., None].expand(-1, -1, 4)),
        sample.taken,
    )
