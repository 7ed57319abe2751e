"""From scores of all priors to a fixed number of candidates.

A detector whose weights or activations are not finite would else find nothing, in silence: where it gives no number for
a cell of the image, a candidate has the score NaN, comes before all others, and is kept by every combination.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from detfuse.ops.anchors import grid_points
from detfuse.ops.boxes import clip_to_images
from detfuse.structures import Size


class Best(NamedTuple):
    """The best (prior, class) pairs of one level.

    Attributes:
        scores: (B, k), as given, NaN first; -inf for those that are no candidate.
        priors: (B, k) int64, which prior of the level.
        labels: (B, k) int64.
    """

    scores: Tensor
    priors: Tensor
    labels: Tensor


def best_of_level(scores: Tensor, inside: Tensor, threshold: float, limit: int) -> Best:
    """The best pairs over the threshold, k = min(limit, P * K) of them.

    The threshold is applied before the choice, so that k can be fixed without letting poor pairs in. NaN is above it.

    Args:
        scores: (B, P, K), any monotonic measure.
        inside: (B, P) bool, priors that may be chosen.
        threshold: in the measure of ``scores``.
        limit: most pairs per level.
    """
    num_classes = scores.shape[2]
    unwanted = (scores <= threshold) | ~inside[..., None]  # not of > : NaN is neither, and is to be seen
    flat = scores.masked_fill(unwanted, -torch.inf).flatten(1)
    count: object = flat.shape[1]
    if isinstance(count, torch.SymInt):
        # A graph for maps of any size: from small ones too it takes as many, of which the last are no candidates. A
        # number that depends on the map's size would be in every later shape, and slow to trace and to read.
        values, place = F.pad(flat, (0, limit), value=-torch.inf).topk(limit, dim=1)
        place = torch.where(values == -torch.inf, 0, place)
    else:
        values, place = flat.topk(min(limit, flat.shape[1]), dim=1)
    return Best(values, place // num_classes, place % num_classes)


def cells_inside(size: Size, stride: float, image_sizes: Tensor, priors_per_cell: int) -> Tensor:
    """Which priors may detect: those whose cell begins inside the image.

    Otherwise the padding, which depends on the other images of the batch, would compete for the candidates.

    Args:
        size: (H, W) of the map.
        stride: its stride, or what its priors are apart.
        image_sizes: (B, 2) as (height, width).
        priors_per_cell: n.

    Returns:
        (B, H * W * n) bool.
    """
    corners = grid_points(size, stride, 0.0, image_sizes.device)
    inside = (corners < image_sizes.flip(-1)[:, None]).all(-1)
    return inside[..., None].expand(-1, -1, priors_per_cell).flatten(1)


def finish(
    boxes: list[Tensor], scores: list[Tensor], labels: list[Tensor], image_sizes: Tensor, min_side: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Join the levels, clip to the images, and give score 0 to what is no box.

    Args:
        boxes: per level (B, k_l, 4) xyxy.
        scores: per level (B, k_l), 0..1.
        labels: per level (B, k_l).
        image_sizes: (B, 2) as (height, width).
        min_side: pixels that a clipped box must exceed in width and height.

    Returns:
        Boxes (B, k, 4), scores (B, k), labels (B, k), levels (B, k): k is the sum over levels. Boxes that are empty
        after clipping (they lay in the padding) or too small have score 0. A candidate whose box is not finite has the
        score NaN and a box of zeros.
    """
    levels = torch.cat([torch.full_like(of_level, level) for level, of_level in enumerate(labels)], dim=1)
    joined, given = torch.cat(boxes, dim=1), torch.cat(scores, dim=1)
    finite = joined.isfinite().all(-1)
    clipped = clip_to_images(torch.where(finite[..., None], joined, 0.0), image_sizes)
    is_box = (clipped[..., 2:] - clipped[..., :2] > min_side).all(-1)
    broken = given.isnan() | ((given > 0) & ~finite)
    return clipped, torch.where(broken, torch.nan, torch.where(is_box, given, 0.0)), torch.cat(labels, dim=1), levels
