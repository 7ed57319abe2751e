"""Faster R-CNN's head: proposals on all levels, and a second stage that looks at each of them.

Paper: Faster R-CNN, 2015, https://arxiv.org/abs/1506.01497; over a pyramid as in Feature Pyramid Networks, 2017,
https://arxiv.org/abs/1612.03144.
Variant: torchvision's ``fasterrcnn_resnet50_fpn``, whose weights fit (of ``bbox_pred`` without the four rows of the
background, which it never reads): two fully connected layers behind RoIAlign. Its ``_v2`` is ``rpn_convs: 2, box_convs:
4, box_fcs: 1, box_norm: batch``. Both read P2 to P6 and pool from P2 to P5: ``anchor_scale: 8, roi_levels: [2, 3, 4,
5]``; the default has the same sizes of anchors, 32 to 512 pixels, on P3 to P7. Those on MobileNetV3 have two maps of
one size, hence ``steps``, and all sizes of anchors on each map, hence ``anchor_sizes``.
Start: as published, N(0, .01) and N(0, .001) for the two predictors (Fast R-CNN, 2015), Caffe2's ``XavierFill`` and
``MSRAFill`` for the layers before them; torchvision leaves all but the convolutions to torch's default.
Deviations: of the proposals see :mod:`detfuse.heads.rpn`; regions in a crowd that match no object learn nothing
(``crowd: background`` is torchvision); sums are divided by the sampled of all processes (``normalizer: process`` is
torchvision); at most ``max_candidates`` pairs of region and class are left to combine.
Compiling: loss and candidates compile whole. In a compiled graph every map pools every region, see
:mod:`detfuse.heads.pooling`, and the suppression of the proposals stays torchvision's, not fused with anything. In an
exported graph it is a loop over the proposals; a ``.pt2`` has torchvision's RoIAlign in it, which must be imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from detfuse.attention.inserts import Sites
from detfuse.errors import InputError
from detfuse.heads.anchored import AnchoredOutputs
from detfuse.heads.box_head import BoxHead, vector_predictor
from detfuse.heads.pooling import level_places, pool_rois
from detfuse.heads.proposals import MIN_SIDE
from detfuse.heads.rpn import RegionProposalNetwork
from detfuse.heads.second_stage import RoiPredictions
from detfuse.heads.tower import Norm
from detfuse.heads.two_stage import TwoStageHead
from detfuse.losses import Normalizer
from detfuse.ops.matching import Crowd, require_order
from detfuse.ranges import (
    Fraction,
    FractionBelowOne,
    Layers,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    checked,
)
from detfuse.structures import Batch, FeatureSpec, Size


class FasterRCNNOutputs(NamedTuple):
    """Raw maps per level, finest first; n anchors per cell.

    Attributes:
        logits: (B, n, H, W) each, objectness.
        deltas: (B, n * 4, H, W) each.
        maps: (B, C, H, W) each, those of the neck's maps that the second stage pools from, as they were given.
    """

    logits: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]

    @property
    def first(self) -> AnchoredOutputs:
        """What the proposals are made of."""
        return AnchoredOutputs(self.logits, self.deltas)


@checked
class FasterRCNNHead(TwoStageHead[FasterRCNNOutputs]):
    """See the module's header.

    Args:
        in_spec: the neck's levels, all of one width.
        num_classes: K, without background.
        attention: what stands at the site ``head``, after every activation of the proposals' tower.
        rpn_convs: 3x3 convolutions before the proposals.
        anchor_scale: size (square root of the area) of a level's smallest anchor, in strides.
        scales_per_octave: anchor sizes between one level and the next.
        anchor_sizes: of each level, in pixels, every level as many; None: as the two above say.
        aspect_ratios: heights / widths of the anchors.
        center_offset: centre of the anchors within the cell, in strides: 0 as torchvision, .5 the middle.
        steps: distance of neighbouring cells in pixels, per level, where a map is smaller than its level says; None:
            the strides.
        grid: see :data:`detfuse.heads.dense.Grid`.
        single_level_anchors: if the neck gives one level only, the levels (log2 of the stride) whose anchors it
            carries.
        rpn_foreground_iou: an anchor with at least this IoU learns the object; so do the best anchors of every object.
        rpn_background_iou: an anchor with less learns background; one in between learns nothing.
        rpn_samples: anchors of an image that learn, drawn anew each time.
        rpn_positive_fraction: of them at most.
        train_candidates_per_level: boxes of each level that may become proposals, while learning.
        train_proposals: proposals of an image that the second stage may learn from.
        candidates_per_level: boxes of each level that may become proposals, while detecting.
        proposals: of an image, that the second stage looks at while detecting: what it costs.
        proposal_threshold: proposals have a higher score; 0: their number alone decides.
        proposal_iou: of two proposals of a level that overlap by more, the better one stays.
        roi_levels: levels that regions are pooled from; None: all.
        roi_size: cells that each region is pooled to, per side.
        sampling_ratio: points that are read per cell and side; 0: as many as the map has there, at least one.
        box_convs: 3x3 convolutions on the pooled region, as wide as the neck.
        box_fcs: fully connected layers behind them.
        box_channels: their width.
        box_norm: after each of the convolutions.
        foreground_iou: a region with at least this IoU learns the object.
        background_iou: a region with less learns background; one in between is not drawn.
        samples: regions of an image that learn.
        positive_fraction: of them at most.
        crowd: what anchors and regions learn that lie mostly in a crowd and match no object: nothing, or background.
        normalizer: divide the sums by what was sampled in all processes, or in this process only.
        coder_weights: factors of the second stage's offsets (dx, dy, dw, dh).
        smooth_l1_beta: where both box losses turn from quadratic to linear.
        box_weight: factor of both box losses.
        score_threshold: candidates have a higher score.
        max_candidates: pairs of region and class of an image that are left to combine, at most.

    Raises:
        ValueError: if levels differ in width, or an argument is out of range.
    """

    def __init__(
        self,
        in_spec: FeatureSpec,
        num_classes: PositiveInt,
        attention: Sites | None = None,
        *,
        rpn_convs: Layers = 1,
        anchor_scale: PositiveFloat = 4.0,
        scales_per_octave: PositiveInt = 1,
        anchor_sizes: Sequence[Sequence[PositiveFloat]] | None = None,
        aspect_ratios: Sequence[PositiveFloat] = (0.5, 1.0, 2.0),
        center_offset: Fraction = 0.0,
        steps: Sequence[PositiveInt] | None = None,
        grid: Literal["exact", "torchvision"] = "exact",
        single_level_anchors: Sequence[PositiveInt] = (3, 4, 5, 6, 7),
        rpn_foreground_iou: Fraction = 0.7,
        rpn_background_iou: Fraction = 0.3,
        rpn_samples: PositiveInt = 256,
        rpn_positive_fraction: Fraction = 0.5,
        train_candidates_per_level: PositiveInt = 2000,
        train_proposals: PositiveInt = 2000,
        candidates_per_level: PositiveInt = 1000,
        proposals: PositiveInt = 1000,
        proposal_threshold: FractionBelowOne = 0.0,
        proposal_iou: Fraction = 0.7,
        roi_levels: Sequence[NonNegativeInt] | None = None,
        roi_size: PositiveInt = 7,
        sampling_ratio: NonNegativeInt = 2,
        box_convs: Layers = 0,
        box_fcs: Layers = 2,
        box_channels: PositiveInt = 1024,
        box_norm: Norm = "none",
        foreground_iou: Fraction = 0.5,
        background_iou: Fraction = 0.5,
        samples: PositiveInt = 512,
        positive_fraction: Fraction = 0.25,
        crowd: Crowd = "ignore",
        normalizer: Normalizer = "all",
        coder_weights: Sequence[PositiveFloat] = (10.0, 10.0, 5.0, 5.0),
        smooth_l1_beta: NonNegativeFloat = 0.1111111111111111,
        box_weight: NonNegativeFloat = 1.0,
        score_threshold: FractionBelowOne = 0.05,
        max_candidates: PositiveInt = 1000,
    ) -> None:
        require_order(type(self).__name__, rpn_foreground_iou, rpn_background_iou, "rpn_")
        super().__init__(
            num_classes,
            coder_weights=coder_weights,
            smooth_l1_beta=smooth_l1_beta,
            across_levels=False,
            train_candidates_per_level=train_candidates_per_level,
            train_proposals=train_proposals,
            candidates_per_level=candidates_per_level,
            proposals=proposals,
            proposal_iou=proposal_iou,
            foreground_iou=foreground_iou,
            background_iou=background_iou,
            samples=samples,
            positive_fraction=positive_fraction,
            crowd=crowd,
            normalizer=normalizer,
            score_threshold=score_threshold,
            max_candidates=max_candidates,
        )
        self.roi_levels = _pooled_levels(in_spec, roi_levels)
        self.roi_size, self.sampling_ratio = roi_size, sampling_ratio
        self.box_weight = box_weight
        self.rpn = RegionProposalNetwork(
            in_spec,
            attention,
            type(self).__name__,
            num_convs=rpn_convs,
            anchor_scale=anchor_scale,
            scales_per_octave=scales_per_octave,
            sizes=anchor_sizes,
            aspect_ratios=aspect_ratios,
            center_offset=center_offset,
            steps=steps,
            grid=grid,
            single_level_anchors=single_level_anchors,
            foreground_iou=rpn_foreground_iou,
            background_iou=rpn_background_iou,
            crowd=crowd,
            normalizer=normalizer,
            samples=rpn_samples,
            positive_fraction=rpn_positive_fraction,
            smooth_l1_beta=smooth_l1_beta,
            candidates_per_level=candidates_per_level,
            score_threshold=proposal_threshold,
        )
        self.box_head = BoxHead(in_spec.channels[0], roi_size, box_convs, box_norm, box_fcs, box_channels)
        self.cls_logits = vector_predictor(self.box_head.out_channels, num_classes + 1, 0.01)
        self.box_deltas = vector_predictor(self.box_head.out_channels, num_classes * 4, 0.001)
        self._places = [in_spec.levels.index(level) for level in self.roi_levels]

    def describe(self) -> str:
        """One line: levels, anchors per cell and their sizes, what the second stage looks at."""
        sizes = [size for of_level in self.rpn.anchor_sizes for size in of_level]
        count = len(self.rpn.in_spec)
        note = " (a single level carries the anchors of all)" if count == 1 else ""
        return (
            f"Faster R-CNN: {count} level{'s' if count > 1 else ''}, {self.rpn.num_anchors} anchors per cell{note}, "
            f"sizes {min(sizes):.0f} to {max(sizes):.0f} px; {self.proposals} proposals, pooled from "
            f"{' '.join(f'P{level}' for level in self.roi_levels)} to {self.roi_size} x {self.roi_size}"
        )

    def fitting(self, maps: Sequence[Size], image_size: Size, boxes: Tensor) -> Tensor:
        """See :class:`detfuse.protocols.Fitting`: as the first stage's priors do."""
        return self.rpn.fitting(maps, image_size, boxes)

    def forward(self, features: Sequence[Tensor]) -> FasterRCNNOutputs:
        """Maps (B, C, H, W) per level to raw maps; equal in training and evaluation."""
        logits, deltas = self.rpn(features)
        return FasterRCNNOutputs(logits, deltas, tuple(features[place] for place in self._places))

    def loss(self, outputs: FasterRCNNOutputs, batch: Batch) -> dict[str, Tensor]:
        """``loss_rpn_cls`` and ``loss_rpn_box`` of the proposals, ``loss_cls`` and ``loss_box`` of the second stage.

        What is learnt from is drawn at random. Crowds and padded rows are no targets. A batch without objects teaches
        background only: both box losses are exactly 0.
        """
        rpn_cls, rpn_box = self.rpn.loss(outputs.first, batch)
        cls, box = self.second_losses(outputs, batch)
        return {
            "loss_rpn_cls": rpn_cls,
            "loss_rpn_box": self.box_weight * rpn_box,
            "loss_cls": cls,
            "loss_box": self.box_weight * box,
        }

    def best_boxes(
        self, outputs: FasterRCNNOutputs, image_sizes: Tensor, per_level: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the proposals' network."""
        return self.rpn.best(outputs.first, image_sizes, per_level, MIN_SIDE)

    def places(self, boxes: Tensor) -> Tensor:
        """By the size of the region."""
        pooled_from = level_places(boxes, self.roi_levels)
        return pooled_from.new_tensor(self._places)[pooled_from]

    def second(self, maps: Sequence[Tensor], boxes: Tensor) -> RoiPredictions:
        """What the second stage says of regions (B, R, 4)."""
        strides = [int(self.rpn.spacing[place]) for place in self._places]
        seen = self.box_head(
            pool_rois(maps, strides, boxes, size=self.roi_size, sampling_ratio=self.sampling_ratio)
        ).unflatten(0, boxes.shape[:2])
        return RoiPredictions(self.cls_logits(seen), self.box_deltas(seen).unflatten(-1, (self.num_classes, 4)))


def _pooled_levels(in_spec: FeatureSpec, asked: Sequence[int] | None) -> list[int]:
    """The levels that regions are pooled from, finest first."""
    if asked is None:
        return list(in_spec.levels)
    strange = [level for level in asked if level not in in_spec.levels]
    if strange or not asked:
        raise InputError(
            f"FasterRCNNHead: roi_levels={list(asked)}, but the neck gives the levels {list(in_spec.levels)} (log2 of "
            "the stride); name some of these, or null for all"
        )
    return sorted(set(asked))
