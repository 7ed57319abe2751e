"""RetinaNet's head: class logits and box offsets for the anchors of each level.

Paper: Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002
Variant: torchvision's (L1 on the offsets, no norm, anchors centred on the upper left corner of the cell); its weights
fit. The sums are divided by the positives of each image (at least 1), then averaged over the images of all processes.
Deviations: anchors in a crowd that match nothing learn nothing (``crowd: background`` is torchvision); anchors are not
rounded to whole pixels; an object that touches no anchor claims none; a detection is never made from a cell that lies
wholly in the padding; a single level carries the anchors of all levels, see ``single_level_anchors``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from detfuse.attention.inserts import Attention
from detfuse.errors import InputError
from detfuse.heads.candidates import best_of_level, cells_inside, combine_images, finish
from detfuse.heads.tower import (
    ConvTower,
    attended_levels,
    by_cell,
    by_prior,
    check_features,
    predictor,
    shared_width,
    tower_width,
)
from detfuse.losses import Normalizer, focal_loss, giou_loss, normalizer_of
from detfuse.ops.anchors import (
    anchors_at_origin,
    from_fixed_point,
    grid_anchors,
    grid_points,
    octave_sizes,
    to_fixed_point,
)
from detfuse.ops.boxes import decode_deltas, encode_deltas
from detfuse.ops.matching import Crowd, Match, boxes_in_crowds, match_anchors
from detfuse.protocols import Combine
from detfuse.ranges import (
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
    checked,
)
from detfuse.structures import Batch, Detections, FeatureSpec


class RetinaNetOutputs(NamedTuple):
    """Raw maps per level, finest first; n anchors per cell.

    Attributes:
        logits: (B, n * K, H, W) each, the classes of an anchor together.
        deltas: (B, n * 4, H, W) each.
    """

    logits: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]


@checked
class RetinaNetHead(nn.Module):
    """See the module's header.

    Args:
        in_spec: the neck's levels, all of one width.
        num_classes: K, without background.
        attention: what stands at the site ``head``, after every activation of the towers.
        num_convs: convolutions of each of the two towers.
        tower_channels: their width; None is the neck's.
        norm: after each of them; "batch" mixes the statistics of the levels.
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

    Attributes:
        num_anchors: anchors per cell.
        anchor_sizes: per level, in pixels.

    Raises:
        ValueError: if levels differ in width, or an argument is out of range.
    """

    compilable: bool = True

    def __init__(
        self,
        in_spec: FeatureSpec,
        num_classes: PositiveInt,
        attention: Attention | None = None,
        *,
        num_convs: NonNegativeInt = 4,
        tower_channels: PositiveInt | None = None,
        norm: Literal["none", "group", "batch"] = "none",
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
    ) -> None:
        super().__init__()
        width = shared_width(in_spec, "RetinaNetHead")
        channels = tower_width("RetinaNetHead", num_convs, tower_channels, width)
        if background_iou > foreground_iou:
            raise InputError(
                f"RetinaNetHead: background_iou={background_iou} must not be above foreground_iou={foreground_iou}"
            )
        self.in_spec, self.num_classes = in_spec, num_classes
        self.crowd, self.normalizer = crowd, normalizer
        self.center_offset = center_offset
        self.foreground_iou, self.background_iou = foreground_iou, background_iou
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.box_loss, self.smooth_l1_beta, self.box_weight = box_loss, smooth_l1_beta, box_weight
        self.score_threshold, self.candidates_per_level = score_threshold, candidates_per_level

        strides = in_spec.strides
        carried = (
            [[stride] for stride in strides] if len(strides) > 1 else [[2**level for level in single_level_anchors]]
        )
        self.anchor_sizes = [
            [size for stride in of_level for size in octave_sizes(anchor_scale * stride, scales_per_octave)]
            for of_level in carried
        ]
        self.num_anchors = len(self.anchor_sizes[0]) * len(aspect_ratios)
        if not self.num_anchors:
            raise InputError("RetinaNetHead has no anchors: give at least one scale, aspect ratio and single level")
        at_origin = torch.stack([anchors_at_origin(sizes, aspect_ratios) for sizes in self.anchor_sizes])
        self.register_buffer("fixed_point_anchors", to_fixed_point(at_origin), persistent=False)
        self.fixed_point_anchors: Tensor

        self.attended = attended_levels(attention, in_spec, num_convs, "RetinaNetHead")
        self.cls_tower = ConvTower(width, channels, num_convs, norm, attention, "cls_tower")
        self.box_tower = ConvTower(width, channels, num_convs, norm, attention, "box_tower")
        self.cls_logits = predictor(channels, self.num_anchors * num_classes, prior_probability)
        self.box_deltas = predictor(channels, self.num_anchors * 4)

    def describe(self) -> str:
        """One line: levels, anchors per cell and their sizes."""
        sizes = [size for of_level in self.anchor_sizes for size in of_level]
        count = len(self.in_spec)
        note = " (a single level carries the anchors of all)" if count == 1 else ""
        return (
            f"RetinaNet: {count} level{'s' if count > 1 else ''}, {self.num_anchors} anchors per cell{note}, "
            f"sizes {min(sizes):.0f} to {max(sizes):.0f} px"
        )

    def forward(self, features: Sequence[Tensor]) -> RetinaNetOutputs:
        """Maps (B, C, H, W) per level to raw maps; equal in training and evaluation."""
        check_features(features, self.in_spec, "RetinaNetHead")
        levels = list(zip(features, self.attended, strict=True))
        return RetinaNetOutputs(
            tuple(self.cls_logits(self.cls_tower(x, attend=on)) for x, on in levels),
            tuple(self.box_deltas(self.box_tower(x, attend=on)) for x, on in levels),
        )

    def anchors(self, outputs: RetinaNetOutputs) -> list[Tensor]:
        """The anchors of each level, (H * W * n, 4) xyxy in the order of the logits."""
        return [
            grid_anchors(
                at_origin,
                grid_points((x.shape[2], x.shape[3]), stride, self.center_offset, x.device),
            )
            for x, stride, at_origin in zip(
                outputs.logits, self.in_spec.strides, from_fixed_point(self.fixed_point_anchors), strict=True
            )
        ]

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
            match = self.match(anchors, targets.boxes.float(), targets.valid)
            if self.crowd == "ignore":
                boxes = targets.boxes.float()
                match = match.sparing(boxes_in_crowds(anchors, boxes, targets.ignore, batch.image_sizes))
            positives = match.positive.sum(1, keepdim=True)  # (B, 1)
            images = normalizer_of(positives.new_full((), len(positives)), self.normalizer)
            share = 1.0 / (positives.clamp(min=1) * images)
            weight = torch.where(match.positive | match.negative, share, 0.0)
            labels = targets.labels.gather(1, match.row)
            logits = [by_cell(raw, self.num_classes).float() for raw in outputs.logits]
            cls = focal_loss(logits, labels, match.positive, weight, alpha=self.focal_alpha, gamma=self.focal_gamma)
            deltas = torch.cat([by_prior(raw, 4) for raw in outputs.deltas], dim=1).float()
            objects = targets.boxes.float().gather(1, match.row[..., None].expand(-1, -1, 4))
            # where there is nothing to learn the anchor is its own target: finite, and without weight
            objects = torch.where(match.positive[..., None], objects, anchors)
            box = self._box_loss(deltas, objects, anchors)
            box = (torch.where(match.positive, box, 0.0) * share).sum()
        return {"loss_cls": cls, "loss_box": self.box_weight * box}

    def _box_loss(self, deltas: Tensor, objects: Tensor, anchors: Tensor) -> Tensor:
        """(B, A) from offsets (B, A, 4), boxes (B, A, 4) and anchors (A, 4)."""
        if self.box_loss == "giou":
            return giou_loss(decode_deltas(deltas, anchors), objects)
        wanted = encode_deltas(objects, anchors)
        if self.box_loss == "l1":
            return (deltas - wanted).abs().sum(-1)
        return functional.smooth_l1_loss(deltas, wanted, beta=self.smooth_l1_beta, reduction="none").sum(-1)

    def candidates(self, outputs: RetinaNetOutputs, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best boxes of each level, see :class:`detfuse.protocols.Head`."""
        threshold = math.log(self.score_threshold / (1 - self.score_threshold)) if self.score_threshold else -math.inf
        boxes, scores, labels = [], [], []
        with torch.autocast(image_sizes.device.type, enabled=False):
            levels = zip(outputs.logits, outputs.deltas, self.anchors(outputs), self.in_spec.strides, strict=True)
            for logits, deltas, anchors, stride in levels:
                size = (logits.shape[2], logits.shape[3])
                inside = cells_inside(size, stride, image_sizes, self.num_anchors)
                best = best_of_level(
                    by_prior(logits, self.num_classes).float(), inside, threshold, self.candidates_per_level
                )
                chosen = by_prior(deltas, 4).float().gather(1, best.priors[..., None].expand(-1, -1, 4))
                boxes.append(decode_deltas(chosen, anchors[best.priors]))
                scores.append(best.scores.sigmoid())  # of -inf: 0
                labels.append(best.labels)
            return finish(boxes, scores, labels, image_sizes)

    def predict(self, outputs: RetinaNetOutputs, image_sizes: Tensor, combine: Combine) -> list[Detections]:
        """The detections of each image, in pixels of the resized image."""
        return combine_images(self.candidates(outputs, image_sizes), combine)
