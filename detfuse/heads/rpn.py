"""The region proposal network: one score per anchor, whether an object of any class is there, and a box.

Paper: Faster R-CNN, 2015, https://arxiv.org/abs/1506.01497; shared by the levels as in Feature Pyramid Networks, 2017,
https://arxiv.org/abs/1612.03144.
Variant: torchvision's, whose weights fit: sigmoid instead of two-way softmax, smooth L1 that turns linear at 1/9.
Deviations: as of RetinaNet's anchors (:mod:`detfuse.heads.retinanet`); a cell that lies wholly in the padding neither
proposes nor teaches background. ``grid: torchvision`` has none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from detfuse.attention.inserts import Sites
from detfuse.errors import InputError
from detfuse.heads.anchored import AnchoredOutputs, ByAnchors
from detfuse.heads.dense import Grid, all_priors, of_priors
from detfuse.heads.proposals import draw_sample
from detfuse.heads.tower import ConvTower, attended_levels, predictor, shared_width
from detfuse.losses import Normalizer, binary_cross_entropy, normalizer_of, smooth_l1_loss
from detfuse.ops.anchors import anchor_sizes, anchors_of_levels
from detfuse.ops.boxes import encode_deltas
from detfuse.ops.matching import Crowd, match_anchors
from detfuse.structures import Batch, FeatureSpec

T = TypeVar("T")


class RegionProposalNetwork(ByAnchors):
    """Anchors of a single class, whose candidates are to become proposals.

    Args:
        in_spec: the neck's levels, all of one width.
        attention: what stands at the site ``head``, after every activation of the tower.
        head: name of the head that it is part of, for messages.
        num_convs: 3x3 convolutions of the tower, as wide as the neck.
        anchor_scale: size (square root of the area) of a level's smallest anchor, in strides.
        scales_per_octave: anchor sizes between one level and the next.
        sizes: of the anchors of each level, in pixels; None: as the two say.
        aspect_ratios: heights / widths of the anchors.
        center_offset: centre of the anchors within the cell, in strides.
        steps: distance of neighbouring cells in pixels, per level; None: the strides.
        grid: see :data:`detfuse.heads.dense.Grid`.
        single_level_anchors: if the neck gives one level only, the levels whose anchors it carries.
        foreground_iou: an anchor with at least this IoU learns the object; so do the best anchors of every object.
        background_iou: an anchor with less learns background.
        crowd: what the anchors in a crowd learn that match no object.
        normalizer: whose samples the losses are divided by.
        samples: anchors of an image that learn.
        positive_fraction: of them at most.
        smooth_l1_beta: where the box loss turns linear.
        candidates_per_level: at most.
        score_threshold: proposals have a higher score; 0: the number alone decides.
    """

    def __init__(
        self,
        in_spec: FeatureSpec,
        attention: Sites | None,
        head: str,
        *,
        num_convs: int,
        anchor_scale: float,
        scales_per_octave: int,
        sizes: Sequence[Sequence[float]] | None,
        aspect_ratios: Sequence[float],
        center_offset: float,
        steps: Sequence[float] | None,
        grid: Grid,
        single_level_anchors: Sequence[int],
        foreground_iou: float,
        background_iou: float,
        crowd: Crowd,
        normalizer: Normalizer,
        samples: int,
        positive_fraction: float,
        smooth_l1_beta: float,
        candidates_per_level: int,
        score_threshold: float,
    ) -> None:
        super().__init__(in_spec, 1, crowd, normalizer, score_threshold, candidates_per_level, grid)
        self.spacing = self.spacing if steps is None else _one_per_level("steps", steps, in_spec, head)
        self.center_offset = center_offset
        self.foreground_iou, self.background_iou = foreground_iou, background_iou
        self.samples, self.positive_fraction = samples, positive_fraction
        self.smooth_l1_beta = smooth_l1_beta

        self.anchor_sizes = anchor_sizes(in_spec.strides, single_level_anchors, anchor_scale, scales_per_octave)
        if sizes is not None:
            self.anchor_sizes = [list(of_level) for of_level in _one_per_level("anchor_sizes", sizes, in_spec, head)]
            _require_one_count(self.anchor_sizes, head)
        self.num_anchors = len(self.anchor_sizes[0]) * len(aspect_ratios)
        if not self.num_anchors:
            raise InputError(f"{head} has no anchors: give at least one scale, aspect ratio and single level")
        self.priors_per_cell = [self.num_anchors] * len(in_spec)
        self.register_buffer(
            "fixed_point_anchors",
            anchors_of_levels(self.anchor_sizes, aspect_ratios, whole=grid == "torchvision"),
            persistent=False,
        )

        width = shared_width(in_spec, head)
        self.attended = attended_levels(attention, in_spec, num_convs, head)
        self.tower = ConvTower(width, width, num_convs, "none", attention, "rpn.tower")
        self.objectness = predictor(width, self.num_anchors, kernel_size=1)
        self.box_deltas = predictor(width, self.num_anchors * 4, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> AnchoredOutputs:
        """Maps (B, C, H, W) per level to raw maps."""
        self.check(features)
        seen = [self.tower(x, attend=on) for x, on in zip(features, self.attended, strict=True)]
        return AnchoredOutputs(tuple(map(self.objectness, seen)), tuple(map(self.box_deltas, seen)))

    def loss(self, outputs: AnchoredOutputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the objectness and smooth L1 of the offsets, over a sample of the anchors."""
        targets = batch.targets
        with torch.autocast(targets.boxes.device.type, enabled=False):
            anchors = torch.cat(self.anchors(outputs))
            match = match_anchors(
                anchors,
                targets.boxes.float(),
                targets.valid,
                foreground_iou=self.foreground_iou,
                background_iou=self.background_iou,
            )
            assigned = self.assign(match, anchors, batch)
            negative = assigned.negative & torch.cat(self.inside(outputs, batch.image_sizes), dim=1)
            rows, taken = draw_sample(assigned.positive, negative, self.samples, self.positive_fraction)
            positive = assigned.positive.gather(1, rows)
            share = 1.0 / normalizer_of(taken.sum(), self.normalizer)
            logits = of_priors(all_priors(outputs.logits, 1), rows)[..., 0]
            objectness = binary_cross_entropy(logits, positive, taken)
            wanted = encode_deltas(of_priors(assigned.boxes, rows), anchors[rows])
            deltas = of_priors(all_priors(outputs.deltas, 4), rows)
            box = smooth_l1_loss(deltas, wanted, self.smooth_l1_beta, taken & positive)
            return share * objectness.sum(), share * box.sum()


def _one_per_level(name: str, given: Sequence[T], in_spec: FeatureSpec, head: str) -> list[T]:
    if len(given) != len(in_spec):
        raise InputError(
            f"{head}: {name} has {len(given)} entries, but the neck gives {len(in_spec)} levels (strides "
            f"{in_spec.strides}); give one for each, or null"
        )
    return list(given)


def _require_one_count(sizes: Sequence[Sequence[float]], head: str) -> None:
    counts = [len(of_level) for of_level in sizes]
    if len(set(counts)) > 1:
        raise InputError(
            f"{head}: anchor_sizes has {counts} sizes for its levels, but one layer predicts for all of them: give "
            "every level as many"
        )
