"""MS-CNN's head: proposals from branches of their own on each level, then a second stage that sees them in context.

Paper: A Unified Multi-scale Deep Convolutional Neural Network for Fast Object Detection, 2016,
https://arxiv.org/abs/1607.07155
Variant: that of KITTI's cars. The first stage is :mod:`detfuse.heads.mscnn_proposal`. The second doubles the finest map
by a transposed convolution of each channel by itself, 4x4, which starts as bilinear; from it every proposal, and the
region 1.5 times as large around it, are pooled to 7 x 7, put together, and pass a 3x3 convolution without padding, a
fully connected layer of 4096 with dropout, and the predictors of K + 1 classes and of a box for each class. Both stages
learn together; of the second, cross-entropy and smooth L1 (offsets times 10, 10, 5, 5) are divided by the number of
regions drawn: 64 of each image, at most a quarter of them objects. Start, numbers of regions and suppression (proposals
of all levels together, IoU .65) are those of the authors' code, https://github.com/zhaoweicai/mscnn.
Training has two phases, each a run of its own (``experiment=mscnn_vgg16`` has the commands): the first stage alone
(``second_stage_weight: 0``) by random negatives and ``box_weight`` .05, then both by bootstrapped ones and 1.
Deviations, besides the first stage's: proposals are ranked by all classes against the background, there by the
strongest; their number is fixed; the transposed convolution learns, as the paper has it, whereas the published nets fix
it; background is drawn from all that overlaps an object by less than ``background_iou``, where the code prefers .1 to
.49; the objects themselves are among the regions, as there, but regions at random where an image has too few are not;
regions in a crowd that match no object learn nothing (``crowd: background`` otherwise).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from detfuse.heads.dense import Level
from detfuse.heads.mscnn_proposal import MSCNNProposalHead, MSCNNProposalOutputs, gaussian
from detfuse.heads.pooling import regions_of
from detfuse.heads.proposals import MIN_SIDE
from detfuse.heads.second_stage import RoiPredictions
from detfuse.heads.two_stage import TwoStageHead
from detfuse.losses import Normalizer
from detfuse.ops.matching import Crowd, require_order
from detfuse.ops.negatives import Sampler
from detfuse.ranges import (
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    OddInt,
    PositiveFloat,
    PositiveInt,
    Range,
    checked,
)
from detfuse.structures import Batch, FeatureSpec, Size

Pooling = Literal["max", "align"]
"""How a region becomes a grid: the maximum of each cell (Fast R-CNN, 2015), or means of points (Mask R-CNN, 2017)."""
_CODER = (10.0, 10.0, 5.0, 5.0)
_POINTS = 2  # per cell and side, of RoIAlign


class MSCNNOutputs(NamedTuple):
    """Raw maps per level, finest first; n_l branches, each one template per cell.

    Attributes:
        logits: (B, n_l * (K + 1), H, W) each, the classes of a branch together, the background first.
        deltas: (B, n_l * 4, H, W) each.
        maps: the neck's finest map (B, C, H, W) alone, as it was given, which the second stage pools from.
    """

    logits: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]
    maps: tuple[Tensor]

    @property
    def first(self) -> MSCNNProposalOutputs:
        """What the proposals are made of."""
        return MSCNNProposalOutputs(self.logits, self.deltas)


class MSCNNProposer(MSCNNProposalHead):
    """The first stage as it proposes: by how little a template looks like background, whatever its class."""

    def levels(self, outputs: MSCNNProposalOutputs, image_sizes: Tensor) -> Iterator[Level]:
        """Ranked by the classes' softmax together."""
        for level in super().levels(outputs, image_sizes):
            yield level._replace(ranking=level.ranking.sum(-1, keepdim=True))


@checked
class MSCNNHead(TwoStageHead[MSCNNOutputs]):
    """See the module's header.

    Args:
        in_spec: the neck's levels, of any widths.
        num_classes: K, without background.
        kernel_sizes: of the branches, see :class:`~detfuse.heads.mscnn_proposal.MSCNNProposalHead`.
        template_scale: likewise.
        template_sizes: likewise.
        single_level_templates: likewise.
        finest_weight: likewise.
        proposal_foreground_iou: a template with at least this IoU learns the object; so do the best of every object.
        proposal_background_iou: a template with less learns background; one in between learns nothing.
        sampler: which of the first stage's negatives teach, see :data:`detfuse.ops.negatives.Sampler`.
        negative_ratio: of them per positive, in each image and branch.
        min_negatives: at least so many in each image and branch.
        train_candidates_per_level: boxes of each level that may become proposals, while learning.
        train_proposals: proposals of an image that the second stage may learn from.
        candidates_per_level: boxes of each level that may become proposals, while detecting.
        proposals: of an image, that the second stage looks at while detecting: what it costs.
        proposal_iou: of two proposals that overlap by more, the better one stays.
        pooling: the maximum of each cell, or RoIAlign.
        roi_size: cells that each region is pooled to, per side; at least 3.
        context_scale: sides of the context in those of the region.
        conv_channels: width of the convolution on what was pooled; None: the finest map's.
        box_channels: width of the fully connected layer behind it.
        dropout: of what the fully connected layer gives, while learning.
        foreground_iou: a region with at least this IoU learns the object.
        background_iou: a region with less learns background; one in between is not drawn.
        samples: regions of an image that learn.
        positive_fraction: of them at most.
        crowd: what templates and regions that lie mostly in a crowd and match no object learn: nothing, or background.
        normalizer: divide by what was drawn in all processes, or in this process only.
        box_weight: the paper's lambda, factor of the box losses of both stages.
        second_stage_weight: factor of both losses of the second stage; 0 while the first learns alone.
        score_threshold: candidates have a higher score.
        max_candidates: pairs of region and class of an image that are left to combine, at most.

    Raises:
        ValueError: if an argument is out of range, or a list does not fit the levels.
    """

    def __init__(
        self,
        in_spec: FeatureSpec,
        num_classes: PositiveInt,
        *,
        kernel_sizes: Sequence[Sequence[tuple[OddInt, OddInt]]] | None = None,
        template_scale: PositiveFloat = 1.5,
        template_sizes: Sequence[Sequence[tuple[PositiveFloat, PositiveFloat]]] | None = None,
        single_level_templates: Sequence[PositiveInt] = (3, 4, 5, 6),
        finest_weight: NonNegativeFloat = 0.9,
        proposal_foreground_iou: Fraction = 0.5,
        proposal_background_iou: Fraction = 0.2,
        sampler: Sampler = "bootstrap",
        negative_ratio: PositiveFloat = 2.0,
        min_negatives: NonNegativeInt = 4,
        train_candidates_per_level: PositiveInt = 1000,
        train_proposals: PositiveInt = 1000,
        candidates_per_level: PositiveInt = 1000,
        proposals: PositiveInt = 1000,
        proposal_iou: Fraction = 0.65,
        pooling: Pooling = "max",
        roi_size: Annotated[int, Range(at_least=3)] = 7,
        context_scale: PositiveFloat = 1.5,
        conv_channels: PositiveInt | None = None,
        box_channels: PositiveInt = 4096,
        dropout: FractionBelowOne = 0.5,
        foreground_iou: Fraction = 0.5,
        background_iou: Fraction = 0.5,
        samples: PositiveInt = 64,
        positive_fraction: Fraction = 0.25,
        crowd: Crowd = "ignore",
        normalizer: Normalizer = "all",
        box_weight: NonNegativeFloat = 1.0,
        second_stage_weight: NonNegativeFloat = 1.0,
        score_threshold: FractionBelowOne = 0.01,
        max_candidates: PositiveInt = 1000,
    ) -> None:
        require_order(type(self).__name__, proposal_foreground_iou, proposal_background_iou, "proposal_")
        super().__init__(
            num_classes,
            coder_weights=_CODER,
            smooth_l1_beta=1.0,
            across_levels=True,
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
        self.box_weight, self.second_stage_weight = box_weight, second_stage_weight

        self.proposer = MSCNNProposer(
            in_spec,
            num_classes,
            kernel_sizes=kernel_sizes,
            template_scale=template_scale,
            template_sizes=template_sizes,
            single_level_templates=single_level_templates,
            finest_weight=finest_weight,
            foreground_iou=proposal_foreground_iou,
            background_iou=proposal_background_iou,
            crowd=crowd,
            normalizer=normalizer,
            sampler=sampler,
            negative_ratio=negative_ratio,
            min_negatives=min_negatives,
            box_weight=box_weight,
            score_threshold=0.0,
            candidates_per_level=candidates_per_level,
        )
        channels = in_spec.channels[0]
        self.regions = ContextPool(channels, in_spec.strides[0], roi_size, context_scale, pooling)
        widths = (2 * channels, channels if conv_channels is None else conv_channels, box_channels)
        self.box_head = _box_head(widths, roi_size, dropout)
        self.cls_logits = gaussian(nn.Linear(box_channels, num_classes + 1), 0.01)
        self.box_deltas = gaussian(nn.Linear(box_channels, num_classes * 4), 0.001)

    def describe(self) -> str:
        """One line: levels, branches and their templates, what the second stage looks at."""
        pool = self.regions
        return (
            f"{self.proposer.describe().replace(' proposals', '', 1)}; {self.proposals} proposals, pooled with "
            f"{pool.context_scale:g} times as large a context from the finest map at stride {pool.stride:g} to "
            f"{pool.size} x {pool.size}"
        )

    def fitting(self, maps: Sequence[Size], image_size: Size, boxes: Tensor) -> Tensor:
        """See :class:`detfuse.protocols.Fitting`: as the first stage's priors do."""
        return self.proposer.fitting(maps, image_size, boxes)

    def forward(self, features: Sequence[Tensor]) -> MSCNNOutputs:
        """Maps (B, C_l, H, W) per level to raw maps; equal in training and evaluation."""
        logits, deltas = self.proposer(features)
        return MSCNNOutputs(logits, deltas, (features[0],))

    def loss(self, outputs: MSCNNOutputs, batch: Batch) -> dict[str, Tensor]:
        """``loss_proposal_cls`` and ``loss_proposal_box`` of the first stage; of the second ``loss_cls``, ``loss_box``.

        The regions are drawn at random. Crowds and padded rows are no targets. A batch without objects teaches
        background only: both box losses are exactly 0.
        """
        first = self.proposer.loss(outputs.first, batch)
        cls, box = self.second_losses(outputs, batch)
        return {
            "loss_proposal_cls": first["loss_cls"],
            "loss_proposal_box": first["loss_box"],
            "loss_cls": self.second_stage_weight * cls,
            "loss_box": self.second_stage_weight * self.box_weight * box,
        }

    def best_boxes(
        self, outputs: MSCNNOutputs, image_sizes: Tensor, per_level: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the first stage."""
        return self.proposer.best(outputs.first, image_sizes, per_level, MIN_SIDE)

    def places(self, boxes: Tensor) -> Tensor:
        """The finest, whichever branch proposed them: all are pooled from it."""
        return torch.zeros_like(boxes[..., 0], dtype=torch.int64)

    def second(self, maps: Sequence[Tensor], boxes: Tensor) -> RoiPredictions:
        """What the second stage says of regions (B, R, 4)."""
        seen = self.box_head(self.regions(*maps, boxes)).unflatten(0, boxes.shape[:2])
        return RoiPredictions(self.cls_logits(seen), self.box_deltas(seen).unflatten(-1, (self.num_classes, 4)))


class ContextPool(nn.Module):
    """Doubles a map, and pools regions and the context around them from it.

    Args:
        channels: C of the map.
        stride: of the map.
        size: of what is pooled, in cells.
        context_scale: sides of the context in those of the region.
        pooling: how.

    Attributes:
        stride: of the doubled map.
    """

    def __init__(self, channels: int, stride: int, size: int, context_scale: float, pooling: Pooling) -> None:
        super().__init__()
        self.stride, self.size, self.context_scale, self.pooling = stride / 2, size, context_scale, pooling
        self.deconv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, groups=channels, bias=False)
        tap = torch.tensor([0.25, 0.75, 0.75, 0.25])
        with torch.no_grad():
            self.deconv.weight.copy_(torch.outer(tap, tap))

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        """A map (B, C, H, W) and regions (B, R, 4) to (B * R, 2 * C, size, size), the context's channels last."""
        doubled = self.deconv(x)
        regions = (boxes, enlarged(boxes, self.context_scale))
        return torch.cat([self._pooled(doubled, region) for region in regions], dim=1)

    def _pooled(self, x: Tensor, boxes: Tensor) -> Tensor:
        """In float32, as torchvision's poolings are."""
        wide, rows, scale = x.float(), regions_of(boxes), 1 / self.stride
        if self.pooling == "align":
            pooled: Tensor = roi_align(wide, rows, self.size, scale, _POINTS)
        else:
            pooled = roi_pool(wide, rows, self.size, scale)
        return pooled.to(x.dtype)


def enlarged(boxes: Tensor, scale: float) -> Tensor:
    """Boxes (..., 4) xyxy with sides ``scale`` times as long around the same centres; they may leave the image."""
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = scale * (boxes[..., 2:] - boxes[..., :2]) / 2
    return torch.cat([center - half, center + half], dim=-1)


def _box_head(widths: tuple[int, int, int], size: int, dropout: float) -> nn.Sequential:
    """What was pooled, (R, widths[0], size, size), to vectors (R, widths[2])."""
    pooled, inner, out = widths
    return nn.Sequential(
        gaussian(nn.Conv2d(pooled, inner, 3), 0.01),
        nn.ReLU(),
        nn.Flatten(),
        gaussian(nn.Linear(inner * (size - 2) ** 2, out), 0.001),
        nn.ReLU(),
        nn.Dropout(dropout),
    )
