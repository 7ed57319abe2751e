"""The first stage of MS-CNN: on each level branches of their own, whose kernels are as large as what they look for.

Paper: A Unified Multi-scale Deep Convolutional Neural Network for Fast Object Detection, 2016,
https://arxiv.org/abs/1607.07155
Variant: the proposal network, its class scores used as detections. Every branch is one convolution that gives K + 1
logits and a box, and shares nothing with the others: 5x5 and 7x7 on each level, 5x5 alone on the coarsest. It looks
for one template, 1.5 times what its kernel spans: 60, 84 | 120, 168 | 240, 336 | 480 pixels at strides 8, 16, 32, 64,
as for KITTI's cars at 576 pixels; at 384 pixels the factor is 1 (``template_scale``). Loss of a branch: cross-entropy,
1 / (1 + r) of its mean over positives and r / (1 + r) of that over r times as many negatives of the same image; smooth
L1, the mean over positives and coordinates. The finest level has a buffer, a 3x3 convolution between trunk and
branches, and weighs .9. The ratio r = 2, the start (Gaussian, .001, and .01 of the buffer) and the least number of
negatives are those of the authors' code, https://github.com/zhaoweicai/mscnn.
Training has two phases, each a run of its own (``experiment=mscnn_vgg16`` has the commands): random negatives and
``box_weight`` .05, then bootstrapped ones and 1.
Deviations: the hardest negatives are those of the largest loss, whereas the code ranks them for each class by its
logit; a half of a mixture never repeats the other; the least number of negatives is per image and branch, there per
class too; an object that no template overlaps by half is learnt by those that overlap it most, however little (the code
gives up below .2); an image without objects, or a branch without positives, teaches with the weight r / (1 + r), there
1; offsets are neither cut in the loss nor to half and twice the template; templates in a crowd that match nothing learn
nothing (``crowd: background`` otherwise); cells that lie wholly in the padding neither detect nor teach; a single level
carries the branches of all, see ``single_level_templates``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from detfuse.errors import InputError
from detfuse.heads.dense import Assigned, DenseHead, Level, all_priors, by_prior, empty_maps
from detfuse.losses import Normalizer, cross_entropy, normalizer_of, smooth_l1_loss
from detfuse.ops.anchors import from_fixed_point, grid_anchors, to_fixed_point
from detfuse.ops.boxes import decode_deltas, encode_deltas
from detfuse.ops.matching import Crowd, Match, fitting_anchors, match_anchors, require_order
from detfuse.ops.negatives import Sampler, choose_negatives
from detfuse.ranges import (
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    OddInt,
    PositiveFloat,
    PositiveInt,
    checked,
)
from detfuse.structures import Batch, FeatureSpec, Size

KERNELS = ((5, 5), (7, 7))
"""Of the branches of a level, (height, width); the coarsest level has the first alone."""


Shape = tuple[float, float]
"""(height, width) in pixels."""


class Branch(NamedTuple):
    """What one branch is: its kernel and its template, each (height, width)."""

    kernel: tuple[int, int]
    template: Shape


class MSCNNProposalOutputs(NamedTuple):
    """Raw maps per level, finest first; n_l branches, each one template per cell.

    Attributes:
        logits: (B, n_l * (K + 1), H, W) each, the classes of a branch together, the background first.
        deltas: (B, n_l * 4, H, W) each.
    """

    logits: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]


@checked
class MSCNNProposalHead(DenseHead[MSCNNProposalOutputs]):
    """See the module's header.

    Args:
        in_spec: the neck's levels, of any widths.
        num_classes: K, without background.
        kernel_sizes: per level, (height, width) of each branch's kernel; None: 5x5 and 7x7, and 5x5 alone on the
            coarsest.
        template_scale: sides of a branch's template in those of its kernel, which are strides times the kernel's size.
        template_sizes: per level, (height, width) in pixels of each branch's template; None: by ``template_scale``.
        single_level_templates: if the neck gives one level only, the levels (log2 of the stride) whose branches it
            carries, unless ``kernel_sizes`` says which.
        finest_weight: factor of the losses of the finest level's branches.
        foreground_iou: a template with at least this IoU learns the object, and so do the best ones of every object.
        background_iou: a template with less learns background; one in between learns nothing.
        crowd: what the templates that lie mostly in a crowd and match no object learn: nothing, or background.
        normalizer: take the means over the images of all processes, or of this process only.
        sampler: which negatives teach, see :data:`detfuse.ops.negatives.Sampler`.
        negative_ratio: negatives per positive, in each image and branch; their share of the loss is as large.
        min_negatives: at least so many in each image and branch, so that those without objects teach.
        box_weight: the paper's lambda, factor of the box loss.
        score_threshold: candidates have a higher score.
        candidates_per_level: at most.

    Attributes:
        layout: per level, its branches.

    Raises:
        ValueError: if an argument is out of range, or a list does not fit the levels.
    """

    fixed_point_templates: Tensor

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
        foreground_iou: Fraction = 0.5,
        background_iou: Fraction = 0.2,
        crowd: Crowd = "ignore",
        normalizer: Normalizer = "all",
        sampler: Sampler = "bootstrap",
        negative_ratio: PositiveFloat = 2.0,
        min_negatives: NonNegativeInt = 4,
        box_weight: NonNegativeFloat = 1.0,
        score_threshold: FractionBelowOne = 0.01,
        candidates_per_level: PositiveInt = 1000,
    ) -> None:
        super().__init__(in_spec, num_classes, crowd, normalizer, score_threshold, candidates_per_level)
        require_order(type(self).__name__, foreground_iou, background_iou)
        self.foreground_iou, self.background_iou = foreground_iou, background_iou
        self.sampler, self.negative_ratio, self.min_negatives = sampler, negative_ratio, min_negatives
        self.finest_weight, self.box_weight = finest_weight, box_weight

        self.layout = _layout(in_spec, kernel_sizes, template_sizes, template_scale, single_level_templates)
        self.priors_per_cell = [len(level) for level in self.layout]
        shapes = [branch.template for level in self.layout for branch in level]
        half = torch.tensor(shapes, dtype=torch.float64).flip(1) / 2
        self.register_buffer("fixed_point_templates", to_fixed_point(torch.cat([-half, half], dim=1)), persistent=False)

        finest = in_spec.channels[0]
        self.buffer = nn.Sequential(gaussian(nn.Conv2d(finest, finest, 3, padding=1), 0.01), nn.ReLU())
        depth = num_classes + 1 + 4
        self.branches = nn.ModuleList(
            nn.ModuleList(_predictor(channels, depth, branch.kernel) for branch in level)
            for channels, level in zip(in_spec.channels, self.layout, strict=True)
        )

    def describe(self) -> str:
        """One line: levels, branches, and their templates."""
        sides = [side for level in self.layout for branch in level for side in branch.template]
        count, branches = len(self.in_spec), sum(self.priors_per_cell)
        note = " (a single level carries those of all)" if count == 1 else ""
        return (
            f"MS-CNN proposals: {count} level{'s' if count > 1 else ''}, {branches} branches{note}, templates "
            f"{min(sides):.0f} to {max(sides):.0f} px, {self.sampler} negatives"
        )

    def forward(self, features: Sequence[Tensor]) -> MSCNNProposalOutputs:
        """Maps (B, C_l, H, W) per level to raw maps; equal in training and evaluation."""
        self.check(features)
        logits, deltas = [], []
        for x, level in zip([self.buffer(features[0]), *features[1:]], self.branches, strict=True):
            assert isinstance(level, nn.ModuleList)
            raw = [branch(x) for branch in level]
            logits.append(torch.cat([y[:, :-4] for y in raw], dim=1))
            deltas.append(torch.cat([y[:, -4:] for y in raw], dim=1))
        return MSCNNProposalOutputs(tuple(logits), tuple(deltas))

    def templates(self, outputs: MSCNNProposalOutputs) -> list[Tensor]:
        """The templates of each level, (H * W * n, 4) xyxy in the order of the logits."""
        at_origin = torch.split(from_fixed_point(self.fixed_point_templates), self.priors_per_cell)
        return [grid_anchors(*level) for level in zip(at_origin, self.grids(outputs, 0.5), strict=True)]

    def match(self, templates: Tensor, boxes: Tensor, valid: Tensor) -> Match:
        """Which template (A, 4) learns which of the boxes (B, N, 4)."""
        return match_anchors(
            templates, boxes, valid, foreground_iou=self.foreground_iou, background_iou=self.background_iou
        )

    def fitting(self, maps: Sequence[Size], image_size: Size, boxes: Tensor) -> Tensor:
        """See :class:`detfuse.protocols.Fitting`: templates of enough overlap."""
        templates = self.templates(MSCNNProposalOutputs(empty_maps(maps), ()))
        return fitting_anchors(templates, boxes, self.foreground_iou)

    def loss(self, outputs: MSCNNProposalOutputs, batch: Batch) -> dict[str, Tensor]:
        """``loss_cls`` (cross-entropy) and ``loss_box`` (smooth L1 on offsets), summed over the branches.

        An image without boxes teaches ``min_negatives`` times background in every branch; its box loss is exactly 0.
        """
        targets = batch.targets
        with torch.autocast(targets.boxes.device.type, enabled=False):
            templates = torch.cat(self.templates(outputs))
            assigned = self.assign(self.match(templates, targets.boxes.float(), targets.valid), templates, batch)
            inside = torch.cat(self.inside(outputs, batch.image_sizes), dim=1)
            return self._branch_losses(outputs, assigned._replace(negative=assigned.negative & inside), templates)

    def _branch_losses(self, outputs: MSCNNProposalOutputs, assigned: Assigned, templates: Tensor) -> dict[str, Tensor]:
        """The losses, each branch by its own positives and negatives."""
        positive, negative = assigned.positive, assigned.negative
        classes = torch.where(positive, assigned.labels + 1, 0)  # 0 is the background
        entropy = cross_entropy(all_priors(outputs.logits, self.num_classes + 1), classes, positive | negative)
        wanted = encode_deltas(assigned.boxes, templates)
        distance = smooth_l1_loss(all_priors(outputs.deltas, 4), wanted, 1.0, positive) / 4  # the mean of 4 coordinates

        sums, counts = [], []
        weights = [self.finest_weight] + [1.0] * (len(self.in_spec) - 1)
        per_level = (self.by_branch(outputs, table) for table in (positive, negative, entropy, distance))
        for weight, objects, others, of_class, of_box in zip(weights, *per_level, strict=True):
            count = (self.negative_ratio * objects.sum(-1, keepdim=True)).clamp(min=self.min_negatives)
            chosen = choose_negatives(others, of_class.detach(), count, self.sampler)
            of_objects, of_chosen = (torch.where(mask, of_class, 0.0) for mask in (objects, chosen))
            sums.append(weight * torch.stack([of_objects, of_chosen, of_box]).sum((1, 3)))
            counts.append(torch.stack([objects, chosen]).sum((1, 3)))
        foreground, background, box = torch.cat(sums, dim=1)
        positives, negatives = normalizer_of(torch.cat(counts, dim=1), self.normalizer)
        share = 1 / (1 + self.negative_ratio)
        cls = share * foreground / positives + (1 - share) * background / negatives
        return {"loss_cls": cls.sum(), "loss_box": self.box_weight * (box / positives).sum()}

    def by_branch(self, outputs: MSCNNProposalOutputs, table: Tensor) -> list[Tensor]:
        """A table (B, A) over all templates as one (B, n_l, H * W) per level."""
        sizes = [x.shape[2] * x.shape[3] * n for x, n in zip(outputs.logits, self.priors_per_cell, strict=True)]
        levels = zip(torch.split(table, sizes, dim=1), self.priors_per_cell, strict=True)
        return [torch.unflatten(level, 1, (-1, n)).transpose(1, 2) for level, n in levels]

    def levels(self, outputs: MSCNNProposalOutputs, image_sizes: Tensor) -> Iterator[Level]:
        """Ranked by the class's softmax, which is the score."""
        for logits, deltas, templates in zip(*outputs, self.templates(outputs), strict=True):
            classes = by_prior(logits, self.num_classes + 1).float().softmax(dim=-1)
            yield Level(classes[..., 1:], by_prior(deltas, 4).float(), templates)

    def decode(self, regression: Tensor, priors: Tensor) -> Tensor:
        """From offsets of templates."""
        return decode_deltas(regression, priors)


def _layout(
    in_spec: FeatureSpec,
    kernels: Sequence[Sequence[tuple[int, int]]] | None,
    templates: Sequence[Sequence[Shape]] | None,
    scale: float,
    single_level: Sequence[int],
) -> list[list[Branch]]:
    """The branches of each level."""
    if kernels is None:
        layout = _default_layout(in_spec, scale, single_level)
    else:
        _check_rows("kernel_sizes", [len(level) for level in kernels], [1] * len(in_spec), in_spec)
        layout = [_scaled(*level, scale) for level in zip(kernels, in_spec.strides, strict=True)]
    if templates is None:
        return layout
    _check_rows("template_sizes", [len(level) for level in templates], [len(level) for level in layout], in_spec)
    return [
        [Branch(branch.kernel, (float(height), float(width))) for branch, (height, width) in zip(*level, strict=True)]
        for level in zip(layout, templates, strict=True)
    ]


def _default_layout(in_spec: FeatureSpec, scale: float, single_level: Sequence[int]) -> list[list[Branch]]:
    """The paper's, for any number of levels."""
    if not single_level:
        raise InputError("MS-CNN: single_level_templates must name at least one level, such as [3, 4, 5, 6]")
    strides = list(in_spec.strides) if len(in_spec) > 1 else [2**level for level in single_level]
    layout = [_scaled(KERNELS, stride, scale) for stride in strides[:-1]] + [_scaled(KERNELS[:1], strides[-1], scale)]
    return layout if len(in_spec) > 1 else [list(chain.from_iterable(layout))]


def _check_rows(name: str, given: Sequence[int], wanted: Sequence[int], in_spec: FeatureSpec) -> None:
    """Refuse lists that do not fit the levels, or leave one without a branch."""
    least = name == "kernel_sizes"
    fits = len(given) == len(wanted) and all(a >= b if least else a == b for a, b in zip(given, wanted, strict=True))
    if not fits:
        raise InputError(
            f"MS-CNN: the neck gives {len(in_spec)} levels (strides {in_spec.strides}), so {name} takes "
            f"{'at least ' * least}{', '.join(map(str, wanted))} (height, width) of them, but there are "
            f"{', '.join(map(str, given)) or 'none'}; null derives them from the levels"
        )


def _scaled(kernels: Sequence[tuple[int, int]], stride: int, scale: float) -> list[Branch]:
    """Branches whose templates are ``scale`` times what their kernels span."""
    return [Branch((height, width), (scale * stride * height, scale * stride * width)) for height, width in kernels]


def _predictor(in_channels: int, depth: int, kernel: tuple[int, int]) -> nn.Conv2d:
    height, width = kernel
    return gaussian(nn.Conv2d(in_channels, depth, kernel, padding=(height // 2, width // 2)), 0.001)


Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def gaussian(layer: Layer, std: float) -> Layer:
    """Start one layer from normal numbers, and no bias."""
    nn.init.normal_(layer.weight, std=std)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
