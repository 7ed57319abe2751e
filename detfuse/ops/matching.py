"""Which prior learns which object, for a padded batch at once.

All matchers stream over the objects in groups, since the whole (B, N, A) table is large (8 images, 64 objects and 163k
anchors: 334 MB a copy). Nothing waits for the device and no shape depends on values, so they compile and export.
Only rows of ``valid`` are objects: padding and crowds are matched by nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from detfuse.ops.boxes import pairwise_iou

ROWS = 8  # objects at a time on a GPU: 42 MB a copy for 8 images of 163k anchors
TIE = 1e-6  # relative; compilers recompute an overlap with another rounding, so "equal to the best" needs room


class Match(NamedTuple):
    """What each prior learns.

    Attributes:
        row: (B, A) int64, row of the object; meaningless (but in range) where not ``positive``.
        positive: (B, A) bool, the prior learns this object.
        negative: (B, A) bool, the prior learns background. Neither: it learns nothing.
    """

    row: Tensor
    positive: Tensor
    negative: Tensor


def match_anchors(
    anchors: Tensor, boxes: Tensor, valid: Tensor, *, foreground_iou: float, background_iou: float
) -> Match:
    """Match by overlap (Faster R-CNN, 2015; RetinaNet, 2017).

    An anchor learns the object that it overlaps most if that IoU is at least ``foreground_iou``, background if it is
    below ``background_iou``. The best anchors of an object learn their own most-overlapped object in any case, if they
    touch it at all (torchvision lets an object that no anchor touches claim every free anchor).

    Args:
        anchors: (A, 4) xyxy.
        boxes: (B, N, 4) xyxy.
        valid: (B, N) bool.
        foreground_iou: positives have at least this IoU.
        background_iou: negatives have less.
    """
    best = boxes.new_full((boxes.shape[0], anchors.shape[0]), -1.0)
    learnt = torch.zeros_like(best, dtype=torch.int64)
    claimed = torch.zeros_like(best, dtype=torch.bool)
    anchors = anchors.t().contiguous().t()  # each coordinate along memory: four times as fast on a CPU
    for start, group, group_valid in _groups(boxes, valid):
        iou = pairwise_iou(group, anchors).masked_fill(~group_valid[..., None], -1.0)
        top = iou.amax(2, keepdim=True)
        # an object that nothing touches (top 0), or that is none (top -1), must claim no anchor: 2 is never reached
        claimed = claimed | (iou >= torch.where(top > 0, top * (1 - TIE), 2.0)).any(1)
        value, row = iou.max(1)
        better = value > best  # strict: the first of equals, as in one table
        best = torch.where(better, value, best)
        learnt = torch.where(better, row + start, learnt)
    positive = (best >= foreground_iou) | claimed
    return Match(learnt, positive, (best < background_iou) & ~positive)


def match_default_boxes(priors: Tensor, boxes: Tensor, valid: Tensor, *, foreground_iou: float) -> Match:
    """Match by overlap, and to every object the one prior that overlaps it most (SSD, 2016).

    A prior that is the best of several objects learns the last of them, whatever else it overlaps more (torchvision).
    (torchvision lets an object that no prior touches claim the first prior; here it claims none.)

    Args:
        priors: (B, A, 4) xyxy.
        boxes: (B, N, 4) xyxy.
        valid: (B, N) bool.
        foreground_iou: positives have at least this IoU, or are an object's best.
    """
    count = priors.shape[1]
    best = boxes.new_full(priors.shape[:2], -1.0)
    learnt = torch.zeros_like(best, dtype=torch.int64)
    # one slot more, for the objects that claim nothing: padded rows would else overwrite a real prior's
    claims = learnt.new_full((len(priors), count + 1), -1)
    apart = priors.movedim(-1, 0).contiguous().movedim(0, -1)[:, None]  # each coordinate along memory, as above
    for start, group, group_valid in _groups(boxes, valid):
        iou = pairwise_iou(group, apart).masked_fill(~group_valid[..., None], -1.0)
        top, favourite = iou.max(2)
        rows = start + torch.arange(group.shape[1], device=boxes.device)
        claims = claims.scatter_reduce(1, torch.where(top > 0, favourite, count), rows.expand_as(favourite), "amax")
        value, row = iou.max(1)
        better = value > best  # strict: the first of equals, as in one table
        best = torch.where(better, value, best)
        learnt = torch.where(better, row + start, learnt)
    claims = claims[:, :count]
    positive = (best >= foreground_iou) | (claims >= 0)
    return Match(torch.where(claims >= 0, claims, learnt), positive, ~positive)


def match_points(points: Tensor, lower: Tensor, upper: Tensor, radius: Tensor, boxes: Tensor, valid: Tensor) -> Match:
    """Match points inside boxes (FCOS, 2019): the smallest object that fits the point's level.

    A point may learn an object if it lies strictly inside the box and near its middle, and the farthest side of the box
    is at a distance in [lower, upper). (torchvision leaves both ends open, so that a box exactly between two levels
    is learnt by none.) Of several objects the one of the smallest area is learnt.

    Args:
        points: (P, 2) as (x, y).
        lower: (P,) least distance to the farthest side, pixels.
        upper: (P,) bound of that distance, pixels.
        radius: (P,) the larger of |dx| and |dy| to the middle of the box must be less, pixels.
        boxes: (B, N, 4) xyxy.
        valid: (B, N) bool.
    """
    x, y = points.t().contiguous()
    smallest = boxes.new_full((boxes.shape[0], points.shape[0]), torch.inf)
    learnt = torch.zeros_like(smallest, dtype=torch.int64)
    for start, group, group_valid in _groups(boxes, valid):
        x0, y0, x1, y1 = group[..., None].unbind(2)  # (B, n, 1) each
        left, right, top, bottom = x - x0, x1 - x, y - y0, y1 - y
        nearest = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom))
        farthest = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
        off_center = torch.maximum((left - right).abs(), (top - bottom).abs()) / 2
        fits = (nearest > 0) & (off_center < radius) & (farthest >= lower) & (farthest < upper)
        area = torch.where(fits & group_valid[..., None], (x1 - x0) * (y1 - y0), torch.inf)
        value, row = area.min(1)
        better = value < smallest
        smallest = torch.where(better, value, smallest)
        learnt = torch.where(better, row + start, learnt)
    positive = smallest < torch.inf
    return Match(learnt, positive, ~positive)


def _groups(boxes: Tensor, valid: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The objects in groups, with the row at which each begins.

    Eager: one object at a time on a CPU, where a row of anchors stays in the cache, else ``ROWS``. Compiled: two groups
    whatever N is, so that the unrolled loop leaves N free (compilers need not store the table).
    """
    count = boxes.shape[1]
    if torch.compiler.is_compiling():
        groups, step = 2, (count + 1) // 2
    else:
        step = 1 if boxes.device.type == "cpu" else ROWS
        groups = -(-count // step)
    boxes = functional.pad(boxes, (0, 0, 0, groups * step - count))
    valid = functional.pad(valid, (0, groups * step - count))
    boxes_of = torch.unflatten(boxes, 1, (groups, step)).unbind(1)
    valid_of = torch.unflatten(valid, 1, (groups, step)).unbind(1)
    for i in range(groups):
        yield i * step, boxes_of[i], valid_of[i]
