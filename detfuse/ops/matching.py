"""Which prior learns which object, which the background and which nothing, for a padded batch at once.

All matchers stream over the objects in groups, since the whole (B, N, A) table is large (8 images, 64 objects and 163k
anchors: 334 MB a copy). Nothing waits for the device and no shape depends on values, so they compile and export.
Only rows of ``valid`` are objects: padding and crowds are matched by nothing. What lies in a crowd is another question,
which :func:`boxes_in_crowds` and :func:`points_in_crowds` answer for every head alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from detfuse.errors import InputError
from detfuse.ops.boxes import pairwise_iou

ROWS = 8  # objects at a time on a GPU: 42 MB a copy for 8 images of 163k anchors
Crowd = Literal["ignore", "background"]
"""What the priors in a crowd learn that match no object: nothing, or that there is none (torchvision)."""

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

    def sparing(self, crowded: Tensor) -> Match:
        """The same, but no background is learnt where ``crowded`` (B, A); what matches an object still learns it."""
        return self._replace(negative=self.negative & ~crowded)


def require_order(head: str, foreground_iou: float, background_iou: float, prefix: str = "") -> None:
    """See that no prior could learn an object and the background at once.

    Args:
        head: its name, for the message.
        foreground_iou: from which IoU on a prior learns the object.
        background_iou: below which it learns background.
        prefix: of both settings.

    Raises:
        InputError: if the second is above the first.
    """
    if background_iou > foreground_iou:
        raise InputError(
            f"{head}: {prefix}background_iou={background_iou} must not be above {prefix}foreground_iou={foreground_iou}"
        )


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


def fitting_anchors(anchors: Sequence[Tensor], boxes: Tensor, foreground_iou: float) -> Tensor:
    """How many anchors of each level, (A_l, 4) each, overlap each of the boxes (N, 4) by at least an IoU, (N, L)."""
    counts = []
    for level in anchors:
        apart = level.t().contiguous().t()  # each coordinate along memory, as above
        groups = (pairwise_iou(group[None], apart)[0] for group in torch.split(boxes, ROWS))
        counts.append(torch.cat([(iou >= foreground_iou).sum(1) for iou in groups]))
    return torch.stack(counts, dim=1)


def match_default_boxes(
    priors: Tensor,
    boxes: Tensor,
    valid: Tensor,
    *,
    foreground_iou: float,
    contested: Literal["first", "last"] = "last",
) -> Match:
    """Match by overlap, and to every object the one prior that overlaps it most (SSD, 2016).

    (torchvision and effdet let an object that no prior touches claim the first prior; here it claims none.)

    Args:
        priors: (B, A, 4) xyxy, or (A, 4), the same for each image.
        boxes: (B, N, 4) xyxy.
        valid: (B, N) bool.
        foreground_iou: positives have at least this IoU, or are an object's best.
        contested: which of several objects a prior learns that is the best of each, whatever else it overlaps more: the
            last (torchvision) or the first (effdet).
    """
    count = priors.shape[-2]
    best = boxes.new_full((len(boxes), count), -1.0)
    learnt = torch.zeros_like(best, dtype=torch.int64)
    # one slot more, for the objects that claim nothing: padded rows would else overwrite a real prior's
    unclaimed, claiming = (-1, "amax") if contested == "last" else (boxes.shape[1], "amin")
    claims = learnt.new_full((len(boxes), count + 1), unclaimed)
    apart = priors.movedim(-1, 0).contiguous().movedim(0, -1)[..., None, :, :]  # each coordinate along memory, as above
    for start, group, group_valid in _groups(boxes, valid):
        iou = pairwise_iou(group, apart).masked_fill(~group_valid[..., None], -1.0)
        top, favourite = iou.max(2)
        rows = start + torch.arange(group.shape[1], device=boxes.device)
        claims = claims.scatter_reduce(1, torch.where(top > 0, favourite, count), rows.expand_as(favourite), claiming)
        value, row = iou.max(1)
        better = value > best  # strict: the first of equals, as in one table
        best = torch.where(better, value, best)
        learnt = torch.where(better, row + start, learnt)
    claims = claims[:, :count]
    claimed = claims != unclaimed
    positive = (best >= foreground_iou) | claimed
    return Match(torch.where(claimed, claims, learnt), positive, ~positive)


def match_rois(rois: Tensor, boxes: Tensor, valid: Tensor, *, foreground_iou: float, background_iou: float) -> Match:
    """Match by overlap alone, so that an object may be learnt by none (Fast R-CNN, 2015): few rois, not streamed.

    Args:
        rois: (B, R, 4) xyxy.
        boxes: (B, N, 4) xyxy.
        valid: (B, N) bool.
        foreground_iou: positives have at least this IoU; of several objects the most overlapped is learnt.
        background_iou: negatives have less with all objects.
    """
    best, row = pairwise_iou(boxes, rois[:, None]).masked_fill(~valid[..., None], -1.0).max(1)
    positive = best >= foreground_iou
    return Match(row, positive, (best < background_iou) & ~positive)


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


def boxes_in_crowds(priors: Tensor, boxes: Tensor, ignore: Tensor, image_sizes: Tensor) -> Tensor:
    """Which priors have more than half of their area in one crowd: of the area that lies in the image.

    The part of a prior that sticks out of the image holds nothing, and detections are cut there; were it counted, the
    border of an image that is all crowd would teach background. A prior wholly in the padding is in no crowd.

    Args:
        priors: (A, 4) xyxy, the same for each image, or (B, A, 4).
        boxes: (B, N, 4) xyxy.
        ignore: (B, N) bool, which of them are crowds.
        image_sizes: (B, 2) as (height, width).

    Returns:
        (B, A) bool.
    """
    height, width = image_sizes[:, :, None, None].to(boxes.dtype).unbind(1)  # (B, 1, 1) each
    # each coordinate along memory, as above
    left, top, right, bottom = priors.movedim(-1, 0).contiguous()[..., None, :].unbind(0)
    left, right = (x.clamp(min=0).minimum(width) for x in (left, right))  # (B, 1, A) each
    top, bottom = (y.clamp(min=0).minimum(height) for y in (top, bottom))
    most = boxes.new_zeros(len(boxes), priors.shape[-2])
    for _, group, is_crowd in _groups(boxes, ignore):
        x0, y0, x1, y1 = torch.where(is_crowd[..., None], group, 0.0)[..., None].unbind(2)  # no crowd shares nothing
        across = (torch.minimum(x1, right) - torch.maximum(x0, left)).clamp(min=0)
        along = (torch.minimum(y1, bottom) - torch.maximum(y0, top)).clamp(min=0)
        most = torch.maximum(most, (across * along).amax(1))
    return most > (0.5 * (right - left) * (bottom - top)).squeeze(1)


def points_in_crowds(points: Tensor, boxes: Tensor, ignore: Tensor) -> Tensor:
    """Which points lie in a crowd, its left and upper border included.

    Whatever their level: before it is learnt nobody knows how large the object is that a point would find there.

    Args:
        points: (P, 2) as (x, y).
        boxes: (B, N, 4) xyxy.
        ignore: (B, N) bool, which of them are crowds.

    Returns:
        (B, P) bool.
    """
    x, y = points.t().contiguous()
    inside = torch.zeros(len(boxes), len(points), dtype=torch.bool, device=boxes.device)
    for _, group, is_crowd in _groups(boxes, ignore):
        x0, y0, x1, y1 = torch.where(is_crowd[..., None], group, 0.0)[..., None].unbind(2)  # no crowd holds nothing
        inside = inside | ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).any(1)
    return inside


def _groups(boxes: Tensor, wanted: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The boxes in groups, with the row at which each begins and which of its rows are wanted.

    Eager: one box at a time on a CPU, where a row of anchors stays in the cache, and none that is not wanted; else
    ``ROWS``, as looking would wait for the device. Compiled: two groups whatever N is, so that the unrolled loop leaves
    N free (compilers need not store the table).
    """
    count = boxes.shape[1]
    may_look = not torch.compiler.is_compiling() and boxes.device.type == "cpu"
    if torch.compiler.is_compiling():
        groups, step = 2, (count + 1) // 2
    else:
        step = 1 if may_look else ROWS
        groups = -(-count // step)
    boxes = functional.pad(boxes, (0, 0, 0, groups * step - count))
    wanted = functional.pad(wanted, (0, groups * step - count))
    boxes_of = torch.unflatten(boxes, 1, (groups, step)).unbind(1)
    wanted_of = torch.unflatten(wanted, 1, (groups, step)).unbind(1)
    for i in range(groups):
        if not may_look or wanted_of[i].any():
            yield i * step, boxes_of[i], wanted_of[i]
