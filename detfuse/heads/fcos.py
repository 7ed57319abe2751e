"""FCOS's head: class logits, distances to the four sides and centerness for one point per cell.

Paper: FCOS: A Simple and Strong Anchor-free Object Detector, 2020, https://arxiv.org/abs/2006.09214
(first: https://arxiv.org/abs/1904.01355, 2019)
Variant: the improved one (2020): center sampling, GIoU, centerness from the box tower, distances in strides after a
ReLU, group norm. torchvision's weights fit with ``level_scales=False, center_offset=0``. All three sums are divided by
the positives of the batch (at least 1), over all processes.
Deviations: points in a crowd that match nothing learn nothing (``crowd: background`` is torchvision, and ``normalizer:
process`` its division by each process's own positives); the size ranges are half open and join also where the neck
skips a level; a detection is never made from a cell that lies wholly in the padding (``grid: torchvision`` makes some).
A single level takes objects of all sizes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from detfuse.attention.inserts import Sites
from detfuse.heads.dense import Level, all_priors, by_prior, empty_maps
from detfuse.heads.tower import (
    TowerHead,
    predictor,
)
from detfuse.losses import Normalizer, binary_cross_entropy, giou_loss, normalizer_of
from detfuse.ops.boxes import decode_distances
from detfuse.ops.matching import Crowd, Match, match_points, points_in_crowds
from detfuse.ranges import (
    Fraction,
    FractionBelowOne,
    Layers,
    NonNegativeFloat,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
    checked,
)
from detfuse.structures import Batch, FeatureSpec, Size


class FCOSOutputs(NamedTuple):
    """Raw maps per level, finest first.

    Attributes:
        logits: (B, K, H, W) each.
        distances: (B, 4, H, W) each: left, top, right, bottom in strides, before the ReLU.
        centerness: (B, 1, H, W) each, logits.
    """

    logits: tuple[Tensor, ...]
    distances: tuple[Tensor, ...]
    centerness: tuple[Tensor, ...]


@checked
class FCOSHead(TowerHead[FCOSOutputs]):
    """See the module's header.

    Args:
        in_spec: the neck's levels, all of one width.
        num_classes: K, without background.
        attention: what stands at the site ``head``, after every activation of the towers.
        num_convs: convolutions of each of the two towers.
        tower_channels: their width; None is the neck's.
        norm: after each of them; "batch" mixes the statistics of the levels.
        level_scales: one learnt factor per level on the distances (paper); False is torchvision.
        size_range: a level learns objects whose farthest side is nearer than this many strides, and not nearer than the
            level below allows; the first level begins at 0, the last has no end.
        center_sampling_radius: a point learns an object only within this many strides of its middle; None: anywhere
            inside the box.
        center_offset: place of the point within the cell, in strides: .5 the middle (paper), 0 as torchvision.
        crowd: what the points of any level that lie in a crowd and match no object learn: nothing, or background.
        normalizer: divide the sums by the positives of all processes (two of 8 images then train as one of 16), or of
            this process only.
        focal_alpha: weight of the positives, 1 - alpha of the background.
        focal_gamma: exponent that damps easy ones.
        box_weight: factor of the box loss (GIoU).
        centerness_weight: factor of the centerness loss.
        prior_probability: of each class at the start.
        score_threshold: candidates have a higher sqrt(class * centerness). .05 is the paper's; torchvision's .2 drops
            detections of low confidence, which cost little precision but much of AP's recall.
        candidates_per_level: at most.
        grid: see :data:`detfuse.heads.dense.Grid`.

    Attributes:
        size_ranges: per level (least, bound) of the distance to the farthest side, in pixels.

    Raises:
        ValueError: if levels differ in width, or an argument is out of range.
    """

    def __init__(
        self,
        in_spec: FeatureSpec,
        num_classes: PositiveInt,
        attention: Sites | None = None,
        *,
        num_convs: Layers = 4,
        tower_channels: PositiveInt | None = None,
        norm: Literal["none", "group", "batch"] = "group",
        level_scales: bool = True,
        size_range: PositiveFloat = 8.0,
        center_sampling_radius: PositiveFloat | None = 1.5,
        center_offset: Fraction = 0.5,
        crowd: Crowd = "ignore",
        normalizer: Normalizer = "all",
        focal_alpha: Fraction = 0.25,
        focal_gamma: NonNegativeFloat = 2.0,
        box_weight: NonNegativeFloat = 1.0,
        centerness_weight: NonNegativeFloat = 1.0,
        prior_probability: OpenFraction = 0.01,
        score_threshold: FractionBelowOne = 0.05,
        candidates_per_level: PositiveInt = 1000,
        grid: Literal["exact", "torchvision"] = "exact",
    ) -> None:
        super().__init__(in_spec, num_classes, crowd, normalizer, score_threshold, candidates_per_level, grid)
        self.center_offset, self.center_sampling_radius = center_offset, center_sampling_radius
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.box_weight, self.centerness_weight = box_weight, centerness_weight
        bounds = [0.0, *(size_range * stride for stride in in_spec.strides[:-1]), math.inf]
        self.size_ranges = list(itertools.pairwise(bounds))

        channels = self.build_towers(attention, num_convs, tower_channels, norm, prior_probability)
        self.box_distances = predictor(channels, 4)
        self.box_centerness = predictor(channels, 1)
        self.scales = nn.Parameter(torch.ones(len(in_spec))) if level_scales else None

    def describe(self) -> str:
        """One line: levels and the object sizes that each learns."""
        ranges = ", ".join(
            f"stride {stride}: {low:.0f} to {high:.0f}"
            for stride, (low, high) in zip(self.in_spec.strides, self.size_ranges, strict=True)
        )
        count = len(self.in_spec)
        return f"FCOS: {count} level{'s' if count > 1 else ''}, distance to the farthest side in px: {ranges}"

    def forward(self, features: Sequence[Tensor]) -> FCOSOutputs:
        """Maps (B, C, H, W) per level to raw maps; equal in training and evaluation."""
        logits, from_boxes = self.towers(features)
        distances = [self.box_distances(x) for x in from_boxes]
        if self.scales is not None:
            distances = [x * scale for x, scale in zip(distances, self.scales.unbind(), strict=True)]
        return FCOSOutputs(logits, tuple(distances), tuple(self.box_centerness(x) for x in from_boxes))

    def points(self, outputs: FCOSOutputs) -> list[Tensor]:
        """The points of each level, (H * W, 2) as (x, y)."""
        return self.grids(outputs, self.center_offset)

    def match(self, points: Sequence[Tensor], boxes: Tensor, valid: Tensor) -> Match:
        """Which point of which level learns which of the boxes (B, N, 4)."""
        radius = math.inf if self.center_sampling_radius is None else self.center_sampling_radius
        # the distance of a point inside a box to its middle is finite, so an infinite radius admits it
        columns = [
            (low, high, radius * stride)
            for stride, (low, high) in zip(self.in_spec.strides, self.size_ranges, strict=True)
        ]
        lower, upper, reach = (
            torch.cat([p.new_full((len(p),), value) for p, value in zip(points, column, strict=True)])
            for column in zip(*columns, strict=True)
        )
        return match_points(torch.cat(list(points)), lower, upper, reach, boxes, valid)

    def fitting(self, maps: Sequence[Size], image_size: Size, boxes: Tensor) -> Tensor:
        """See :class:`detfuse.protocols.Fitting`: points near the middle, on the level of its size."""
        points = self.points(FCOSOutputs(empty_maps(maps), (), ()))
        alone = boxes[:, None]  # one object to an image
        positive = self.match(points, alone, torch.ones(alone.shape[:2], dtype=torch.bool)).positive
        by_level = torch.split(positive, [len(level) for level in points], dim=1)
        return torch.stack([level.sum(1) for level in by_level], dim=1)

    def in_crowds(self, priors: Tensor, batch: Batch) -> Tensor:
        """Which points (P, 2) lie in a crowd, (B, P)."""
        return points_in_crowds(priors, batch.targets.boxes.float(), batch.targets.ignore)

    def loss(self, outputs: FCOSOutputs, batch: Batch) -> dict[str, Tensor]:
        """``loss_cls`` (focal), ``loss_box`` (GIoU), ``loss_ctr``; crowds and padded rows are no targets.

        An image without boxes teaches background only: its box and centerness losses are exactly 0.
        """
        targets = batch.targets
        with torch.autocast(targets.boxes.device.type, enabled=False):
            per_level = self.points(outputs)
            points = torch.cat(per_level)
            assigned = self.assign(self.match(per_level, targets.boxes.float(), targets.valid), points, batch)
            positive = assigned.positive
            share = 1.0 / normalizer_of(positive.sum(), self.normalizer)
            boxes = decode_distances(torch.cat(self._distances(outputs), dim=1), points)
            box = giou_loss(boxes, assigned.boxes, positive)
            wanted = centerness_of(points, assigned.boxes)
            ctr = binary_cross_entropy(all_priors(outputs.centerness, 1).squeeze(-1), wanted, positive)
            return {
                "loss_cls": self.class_loss(outputs, assigned, share),
                "loss_box": self.box_weight * share * box.sum(),
                "loss_ctr": self.centerness_weight * share * ctr.sum(),
            }

    def _distances(self, outputs: FCOSOutputs) -> list[Tensor]:
        """Per level (B, H * W, 4) in pixels."""
        return [
            by_prior(raw, 4).float().relu() * stride
            for raw, stride in zip(outputs.distances, self.in_spec.strides, strict=True)
        ]

    def levels(self, outputs: FCOSOutputs, image_sizes: Tensor) -> Iterator[Level]:
        """Ranked by class * centerness, which orders as its root does."""
        levels = zip(outputs.logits, outputs.centerness, self._distances(outputs), self.points(outputs), strict=True)
        for logits, centerness, distances, points in levels:
            classes = by_prior(logits, self.num_classes).float().sigmoid()
            yield Level(classes * by_prior(centerness, 1).float().sigmoid(), distances, points)

    def decode(self, regression: Tensor, priors: Tensor) -> Tensor:
        """From distances to points."""
        return decode_distances(regression, priors)

    def ranking_of(self, score: float) -> float:
        """The score is sqrt(class * centerness)."""
        return score**2

    def score_of(self, ranking: Tensor) -> Tensor:
        """The root, of the chosen only."""
        return ranking.clamp(min=0).sqrt()


def centerness_of(points: Tensor, boxes: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of points (P, 2) strictly inside boxes (..., P, 4)."""
    low, high = points - boxes[..., :2], boxes[..., 2:] - points
    ratio = torch.minimum(low, high) / torch.maximum(low, high)
    return (ratio[..., 0] * ratio[..., 1]).sqrt()
