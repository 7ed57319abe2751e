"""RetinaNet's head: class logits and box offsets for the anchors of each level.

Paper: Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002
Variant: torchvision's (L1 on the offsets, no norm, anchors centred on the upper left corner of the cell); its weights
fit. The sums are divided by the positives of each image (at least 1), then averaged over the images of all processes.
Deviations: anchors in a crowd that match nothing learn nothing (``crowd: background`` is torchvision); anchors are not
rounded to whole pixels, and a detection is never made from a cell that lies wholly in the padding (``grid:
torchvision`` does both as it does); an object that touches no anchor claims none; a single level carries the anchors of
all levels, see ``single_level_anchors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from detfuse.attention.inserts import Sites
from detfuse.heads.anchored import AnchoredHead, AnchoredOutputs
from detfuse.heads.dense import all_priors
from detfuse.heads.tower import predictor
from detfuse.losses import Normalizer, giou_loss, l1_loss, normalizer_of, smooth_l1_loss
from detfuse.ops.anchors import anchor_sizes, anchors_of_levels
from detfuse.ops.boxes import decode_deltas, encode_deltas
from detfuse.ops.matching import Crowd, Match, match_anchors, require_order
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

RetinaNetOutputs = AnchoredOutputs


@checked
class RetinaNetHead(AnchoredHead):
    """See the module's header.

    Args:
        in_spec: the neck's levels, all of one width.
        num_classes: K, without background.
        attention: what stands at the site ``head``, after every activation of the towers.
        num_convs: convolutions of each of the two towers.
        tower_channels: their width; None is the neck's.
        norm: after each of them; "batch" mixes the statistics of the levels.
        tower_bias: whether they have biases; None: unless a batch norm follows. False before "group" is torchvision's
            v2.
        anchor_scale: size (square root of the area) of a level's smallest anchor, in strides.
        scales_per_octave: anchor sizes between one level and the next.
        aspect_ratios: heights / widths of the anchors.
        center_offset: centre of the anchors within the cell, in strides: 0 as torchvision, .5 the middle.
        single_level_anchors: if the neck gives one level only, the levels (log2 of the stride) whose anchors it
            carries: 5 levels of 9 are 45 anchors per cell.
        foreground_iou: an anchor with at least this IoU learns the object.
        background_iou: an anchor with less learns background; one in between learns nothing.
        crowd: what the anchors that lie mostly in a crowd and match no object learn: nothing, or background.
        normalizer: average over the images of all processes, or of this process only; a difference where processes have
            unequal numbers of images.
        focal_alpha: weight of the positives, 1 - alpha of the background.
        focal_gamma: exponent that damps easy ones.
        box_loss: "l1" and "smooth_l1" compare offsets, "giou" the boxes.
        smooth_l1_beta: where smooth L1 turns from quadratic to linear.
        box_weight: factor of the box loss.
        prior_probability: of each class at the start.
        score_threshold: candidates have a higher score.
        candidates_per_level: at most.
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
        num_convs: Layers = 4,
        tower_channels: PositiveInt | None = None,
        norm: Literal["none", "group", "batch"] = "none",
        tower_bias: bool | None = None,
        anchor_scale: PositiveFloat = 4.0,
        scales_per_octave: PositiveInt = 3,
        aspect_ratios: Sequence[PositiveFloat] = (0.5, 1.0, 2.0),
        center_offset: Fraction = 0.0,
        single_level_anchors: Sequence[PositiveInt] = (3, 4, 5, 6, 7),
        foreground_iou: Fraction = 0.5,
        background_iou: Fraction = 0.4,
        crowd: Crowd = "ignore",
        normalizer: Normalizer = "all",
        focal_alpha: Fraction = 0.25,
        focal_gamma: NonNegativeFloat = 2.0,
        box_loss: Literal["l1", "smooth_l1", "giou"] = "l1",
        smooth_l1_beta: NonNegativeFloat = 0.11,
        box_weight: NonNegativeFloat = 1.0,
        prior_probability: OpenFraction = 0.01,
        score_threshold: FractionBelowOne = 0.05,
        candidates_per_level: PositiveInt = 1000,
        grid: Literal["exact", "torchvision"] = "exact",
    ) -> None:
        super().__init__(in_spec, num_classes, crowd, normalizer, score_threshold, candidates_per_level, grid)
        require_order(type(self).__name__, foreground_iou, background_iou)
        self.center_offset = center_offset
        self.foreground_iou, self.background_iou = foreground_iou, background_iou
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.box_loss, self.smooth_l1_beta, self.box_weight = box_loss, smooth_l1_beta, box_weight

        self.anchor_sizes = anchor_sizes(in_spec.strides, single_level_anchors, anchor_scale, scales_per_octave)
        self.place_anchors(anchors_of_levels(self.anchor_sizes, aspect_ratios, whole=grid == "torchvision"))

        channels = self.build_towers(attention, num_convs, tower_channels, norm, prior_probability, tower_bias)
        self.box_deltas = predictor(channels, self.num_anchors * 4)

    def forward(self, features: Sequence[Tensor]) -> RetinaNetOutputs:
        """Maps (B, C, H, W) per level to raw maps; equal in training and evaluation."""
        logits, from_boxes = self.towers(features)
        return RetinaNetOutputs(logits, tuple(self.box_deltas(x) for x in from_boxes))

    def match(self, anchors: Tensor, boxes: Tensor, valid: Tensor) -> Match:
        """Which anchor (A, 4) learns which of the boxes (B, N, 4)."""
        return match_anchors(
            anchors, boxes, valid, foreground_iou=self.foreground_iou, background_iou=self.background_iou
        )

    def loss(self, outputs: RetinaNetOutputs, batch: Batch) -> dict[str, Tensor]:
        """``loss_cls`` (focal) and ``loss_box``; crowds and padded rows are no targets, as in torchvision.

        An image without boxes teaches background only: its box loss is exactly 0.
        """
        targets = batch.targets
        with torch.autocast(targets.boxes.device.type, enabled=False):
            anchors = torch.cat(self.anchors(outputs))
            assigned = self.assign(self.match(anchors, targets.boxes.float(), targets.valid), anchors, batch)
            positives = assigned.positive.sum(1, keepdim=True)  # (B, 1)
            images = normalizer_of(positives.new_full((), len(positives)), self.normalizer)
            share = 1.0 / (positives.clamp(min=1) * images)
            box = self._box_loss(all_priors(outputs.deltas, 4), assigned.boxes, anchors, assigned.positive)
            return {
                "loss_cls": self.class_loss(outputs, assigned, share),
                "loss_box": self.box_weight * (box * share).sum(),
            }

    def _box_loss(self, deltas: Tensor, objects: Tensor, anchors: Tensor, where: Tensor) -> Tensor:
        """(B, A) from offsets (B, A, 4), boxes (B, A, 4) and anchors (A, 4)."""
        if self.box_loss == "giou":
            return giou_loss(decode_deltas(deltas, anchors), objects, where)
        wanted = encode_deltas(objects, anchors)
        if self.box_loss == "l1":
            return l1_loss(deltas, wanted, where)
        return smooth_l1_loss(deltas, wanted, self.smooth_l1_beta, where)
