"""What the second stage of a two-stage head predicts for each region: its losses, and its candidates.

Paper: Fast R-CNN, 2015, https://arxiv.org/abs/1504.08083: softmax over the classes and the background, and for each
class a box as offsets of the region.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detfuse.heads.candidates import best_of_level, finish
from detfuse.heads.proposals import Proposals, Rois
from detfuse.losses import Normalizer, cross_entropy, normalizer_of, smooth_l1_loss
from detfuse.ops.boxes import decode_deltas, encode_deltas

_MIN_SIDE = 1e-2  # pixels that a detection must exceed in width and height (torchvision)


class RoiPredictions(NamedTuple):
    """Of R regions per image.

    Attributes:
        logits: (B, R, K + 1), the background first.
        deltas: (B, R, D, 4) offsets of the region: D = K one box per class, D = 1 one for all.
    """

    logits: Tensor
    deltas: Tensor

    def of_class(self, labels: Tensor, rows: Tensor | None = None) -> Tensor:
        """The offsets (B, k, 4) that were predicted for a class (B, k) in 0..K-1, of regions ``rows`` (B, k) or all."""
        boxes = self.deltas.shape[2]
        if rows is None:
            rows = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
        place = rows * boxes + labels.clamp(0, boxes - 1)
        return self.deltas.flatten(1, 2).gather(1, place[..., None].expand(-1, -1, 4))


def second_stage_loss(
    predicted: RoiPredictions, rois: Rois, *, coder: Tensor, beta: float, normalizer: Normalizer
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the classes, and smooth L1 of the offsets of what learns an object.

    Args:
        predicted: for the regions that were drawn.
        rois: what they learn.
        coder: (4,) factors of the offsets dx, dy, dw, dh.
        beta: where smooth L1 turns from quadratic to linear.
        normalizer: whose regions both sums are divided by.

    Returns:
        Both losses, float32 scalars.
    """
    share = 1.0 / normalizer_of(rois.taken.sum(), normalizer)
    entropy = cross_entropy(predicted.logits, rois.classes, rois.taken)
    wanted = encode_deltas(rois.objects, rois.boxes) * coder
    box = smooth_l1_loss(predicted.of_class(rois.classes - 1), wanted, beta, rois.positive)
    return share * entropy.sum(), share * box.sum()


def second_stage_candidates(
    predicted: RoiPredictions,
    proposals: Proposals,
    levels: Tensor,
    image_sizes: Tensor,
    *,
    coder: Tensor,
    threshold: float,
    limit: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best pairs of region and class, see :class:`detfuse.protocols.Head`.

    Args:
        predicted: for the proposals.
        proposals: the regions.
        levels: (B, R) int64, which map each was pooled from.
        image_sizes: (B, 2) as (height, width).
        coder: (4,) factors of the offsets.
        threshold: candidates have a higher score.
        limit: most candidates of an image.
    """
    scores = predicted.logits.float().softmax(dim=-1)[..., 1:]
    scores = torch.where(proposals.scores.isnan()[..., None], torch.nan, scores)
    best = best_of_level(scores, proposals.scores != 0, threshold, limit)
    regions = proposals.boxes.gather(1, best.priors[..., None].expand(-1, -1, 4))
    boxes = decode_deltas(predicted.of_class(best.labels, best.priors).float() / coder, regions)
    found = finish([boxes], [best.scores.clamp(min=0)], [best.labels], image_sizes, _MIN_SIDE)
    return (*found[:3], levels.gather(1, best.priors))
