"""EfficientDet's head: RetinaNet's idea with separable convolutions, and norms of their own for each level.

Paper: EfficientDet: Scalable and Efficient Object Detection, 2020, https://arxiv.org/abs/1911.09070
Variant: effdet's (https://github.com/rwightman/efficientdet-pytorch), whose weights fit, as those ported from the
authors' code do. The sums are divided by the positives of all images and one more, the boxes' by four times as many.
An object is learnt by anchors of enough overlap and by the one anchor that overlaps it most.
Deviations: anchors in a crowd that match nothing learn nothing (``crowd: background`` is effdet); an object that
touches no anchor claims none; a detection is never made from a cell that lies wholly in the padding (``grid: effdet``
makes them); levels keep their nominal stride where an image is no multiple of the coarsest; a single level carries the
anchors of all levels, see ``single_level_anchors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from detfuse.attention.inserts import Sites
from detfuse.heads.anchored import AnchoredHead, AnchoredOutputs
from detfuse.heads.classes import ClassRows
from detfuse.heads.dense import all_priors
from detfuse.heads.separable import SeparableTower, separable_predictor
from detfuse.heads.tower import attended_levels, shared_width
from detfuse.losses import Normalizer, normalizer_of, smooth_l1_loss
from detfuse.ops.anchors import anchor_sizes, shaped_anchors
from detfuse.ops.boxes import encode_deltas
from detfuse.ops.matching import Crowd, Match, match_default_boxes
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
from detfuse.structures import Batch, FeatureSpec

SHAPES = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Width and height of the published anchors, in their size."""


@checked
class EfficientDetHead(AnchoredHead):
    """See the module's header.

    Args:
        in_spec: the neck's levels, all of one width, which is that of the towers.
        num_classes: K, without background.
        attention: what stands at the site ``head``, after every activation of the towers.
        num_convs: separable convolutions of each of the two towers.
        norm_eps: epsilon of their batch norms.
        norm_momentum: of the running statistics of these.
        anchor_scale: a level's smallest anchor size, in strides.
        scales_per_octave: anchor sizes between one level and the next.
        anchor_shapes: [width, height] of the anchors, in their size; None: :data:`SHAPES`.
        center_offset: centre of the anchors within the cell, in strides.
        single_level_anchors: if the neck gives one level only, it carries the anchors of these levels.
        foreground_iou: an anchor with at least this IoU learns the object; the others learn background.
        crowd: what the anchors that lie mostly in a crowd and match no object learn: nothing, or background.
        normalizer: divide by the positives of all processes, or of this process only.
        focal_alpha: weight of the positives, 1 - alpha of the background.
        focal_gamma: exponent that damps easy ones.
        huber_delta: where the box loss turns from quadratic to linear.
        box_weight: factor of the box loss.
        prior_probability: of each class at the start.
        score_threshold: candidates have a higher score.
        max_candidates: the best over all levels, at most.
        grid: see :data:`detfuse.heads.dense.Grid`.

    Raises:
        ValueError: if levels differ in width, or an argument is out of range.
    """

    def __init__(
        self,
        in_spec: FeatureSpec,
        num_classes: PositiveInt,
        attention: Sites | None = None,
        *,
        num_convs: Layers = 3,
        norm_eps: NonNegativeFloat = 1e-3,
        norm_momentum: Fraction = 0.01,
        anchor_scale: PositiveFloat = 4.0,
        scales_per_octave: PositiveInt = 3,
        anchor_shapes: Sequence[tuple[PositiveFloat, PositiveFloat]] | None = None,
        center_offset: Fraction = 0.5,
        single_level_anchors: Sequence[PositiveInt] = (3, 4, 5, 6, 7),
        foreground_iou: Fraction = 0.5,
        crowd: Crowd = "ignore",
        normalizer: Normalizer = "all",
        focal_alpha: Fraction = 0.25,
        focal_gamma: NonNegativeFloat = 1.5,
        huber_delta: PositiveFloat = 0.1,
        box_weight: NonNegativeFloat = 50.0,
        prior_probability: OpenFraction = 0.01,
        score_threshold: FractionBelowOne = 0.0,
        max_candidates: PositiveInt = 5000,
        grid: Literal["exact", "effdet"] = "exact",
    ) -> None:
        super().__init__(in_spec, num_classes, crowd, normalizer, score_threshold, max_candidates, grid)
        self.center_offset, self.foreground_iou = center_offset, foreground_iou
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.huber_delta, self.box_weight = huber_delta, box_weight
        self.max_candidates = max_candidates

        self.anchor_sizes = anchor_sizes(in_spec.strides, single_level_anchors, anchor_scale, scales_per_octave)
        self.place_anchors(shaped_anchors(self.anchor_sizes, SHAPES if anchor_shapes is None else anchor_shapes))

        name, levels = type(self).__name__, len(in_spec)
        width = shared_width(in_spec, name)
        self.attended = attended_levels(attention, in_spec, num_convs, name)
        self.cls_tower = SeparableTower(width, num_convs, levels, norm_eps, norm_momentum, attention, "cls_tower")
        self.box_tower = SeparableTower(width, num_convs, levels, norm_eps, norm_momentum, attention, "box_tower")
        self.cls_logits = separable_predictor(width, self.num_anchors * num_classes, prior_probability)
        self.box_deltas = separable_predictor(width, self.num_anchors * 4)

    def forward(self, features: Sequence[Tensor]) -> AnchoredOutputs:
        """Maps (B, C, H, W) per level to raw maps."""
        self.check(features)
        levels = [(x, i, on) for i, (x, on) in enumerate(zip(features, self.attended, strict=True))]
        return AnchoredOutputs(
            tuple(self.cls_logits(self.cls_tower(x, level, attend=on)) for x, level, on in levels),
            tuple(self.box_deltas(self.box_tower(x, level, attend=on)) for x, level, on in levels),
        )

    def class_rows(self) -> dict[str, ClassRows]:
        """See :class:`detfuse.heads.classes.Classed`."""
        return {"cls_logits.pointwise.": ClassRows(groups=self.num_anchors)}

    def match(self, anchors: Tensor, boxes: Tensor, valid: Tensor) -> Match:
        """Which anchor (A, 4) learns which of the boxes (B, N, 4)."""
        return match_default_boxes(anchors, boxes, valid, foreground_iou=self.foreground_iou, contested="first")

    def loss(self, outputs: AnchoredOutputs, batch: Batch) -> dict[str, Tensor]:
        """``loss_cls`` (focal) and ``loss_box`` (Huber on offsets); crowds and padded rows are no targets.

        An image without boxes teaches background only: its box loss is exactly 0.
        """
        targets = batch.targets
        with torch.autocast(targets.boxes.device.type, enabled=False):
            anchors = torch.cat(self.anchors(outputs))
            assigned = self.assign(self.match(anchors, targets.boxes.float(), targets.valid), anchors, batch)
            share = 1.0 / normalizer_of(assigned.positive.sum(), self.normalizer, added=1)
            wanted = encode_deltas(assigned.boxes, anchors)
            box = smooth_l1_loss(all_priors(outputs.deltas, 4), wanted, self.huber_delta, assigned.positive)
            huber = self.huber_delta * box.sum() / 4  # the mean of the offsets; smooth L1 is Huber's over delta
            return {"loss_cls": self.class_loss(outputs, assigned, share), "loss_box": self.box_weight * share * huber}

    def candidates(self, outputs: AnchoredOutputs, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best over all levels, see :class:`detfuse.protocols.Head`."""
        boxes, scores, labels, levels = super().candidates(outputs, image_sizes)
        scores, rows = scores.topk(min(self.max_candidates, scores.shape[1]), dim=1)
        boxes = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
        return boxes, scores, labels.gather(1, rows), levels.gather(1, rows)
