"""SSD's head: on each level a predictor of its own gives class logits and box offsets for default boxes.

Paper: SSD: Single Shot MultiBox Detector, 2016, https://arxiv.org/abs/1512.02325
Variant: SSD300 with COCO's scales, as in torchvision, whose weights fit: softmax with the background as class 0,
default boxes as fractions of the image, hard negatives 3:1 by loss within each image, sums divided by the positives of
the batch (at least 1), over all processes. ``predictor: separable`` is SSDLite's (MobileNetV2, 2018,
https://arxiv.org/abs/1801.04381, section 6.2).
Fill: the authors' ``xavier`` of Caffe, by the fan-in alone, and zero biases; torchvision's counts the fan-out as well.
Deviations: default boxes in a crowd that match nothing learn nothing (``crowd: background`` is torchvision, and
``normalizer: process`` its division by each process's own positives); an image without objects teaches its hardest
negatives too (``min_negatives: 0`` is the original); the scales follow from the number of levels, so that the head
works under any neck; a single level carries the boxes of all; the candidates are the best of each level, as in the
other heads, where torchvision takes the best 400 of each class (``candidates_per_class``); cells that lie wholly in the
padding neither detect nor teach; an object that no default box touches claims none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from detfuse.errors import InputError
from detfuse.fill import fill_convolutions
from detfuse.fusion.lite import lite_predictor
from detfuse.heads.candidates import ANY_SIDE, best_of_level, finish
from detfuse.heads.classes import ClassRows
from detfuse.heads.dense import DenseHead, Level, all_priors, by_prior, empty_maps, of_priors
from detfuse.losses import Normalizer, cross_entropy, normalizer_of, smooth_l1_loss
from detfuse.ops.anchors import default_box_shapes, from_fixed_point, to_fixed_point
from detfuse.ops.boxes import decode_deltas, encode_deltas
from detfuse.ops.matching import Crowd, Match, fitting_anchors, match_default_boxes
from detfuse.ranges import (
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    checked,
)
from detfuse.structures import Batch, FeatureSpec, Size

COCO_SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
"""Of the six levels of SSD300 on COCO, and of the one that would follow, as fractions of the image."""


class SSDOutputs(NamedTuple):
    """Raw maps per level, finest first; n_l default boxes per cell.

    Attributes:
        logits: (B, n_l * (K + 1), H, W) each, the classes of a box together, the background first.
        deltas: (B, n_l * 4, H, W) each.
    """

    logits: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]


@checked
class SSDHead(DenseHead[SSDOutputs]):
    """See the module's header.

    Args:
        in_spec: the neck's levels, of any widths.
        num_classes: K, without background.
        scales: side of each level's square default box as a fraction of the image, and one more, which the extra square
            of the last level needs; None: COCO's, spread over the number of levels (exactly these for six).
        aspect_ratios: per level, each giving a wide and a tall box beside the two squares; None: 2 on the finest and
            the two coarsest levels, 2 and 3 between them (for six levels 4, 6, 6, 6, 4, 4 boxes).
        steps: per level, distance of neighbouring boxes in pixels; None: the strides. SSD300's are 8, 16, 32, 64, 100,
            300, since its last maps (3 x 3 and 1 x 1) are no halves.
        single_level_scales: if the neck gives one level only, it carries the boxes of this many levels (unless
            ``scales`` says how many).
        foreground_iou: a default box with at least this IoU learns the object; so does the best box of every object.
        crowd: what the default boxes that lie mostly in a crowd and match no object learn: nothing (they are no hard
            negatives either), or background.
        normalizer: divide the sums by the positives of all processes (two of 8 images then train as one of 16), or of
            this process only.
        negative_ratio: hard negatives per positive, in each image.
        min_negatives: at least so many in each image, so that one without objects teaches; 0 as torchvision.
        coder_weights: factors of the offsets (dx, dy, dw, dh); the original's variances .1 and .2 are 10 and 5.
        smooth_l1_beta: where the box loss turns from quadratic to linear.
        box_weight: factor of the box loss.
        predictor: what gives the logits, and the offsets: a 3x3 convolution, or a depthwise one with norm and ReLU6,
            then 1x1.
        score_threshold: candidates have a higher score.
        candidates_per_level: at most.
        candidates_per_class: the best of each class over all levels, at most, in place of the best of each level, and
            empty boxes among them: torchvision has 400; None: by the level.

    Attributes:
        scales: see above, as used.
        spacing: per level, the steps as used.
        num_boxes: per level, default boxes per cell.

    Raises:
        ValueError: if an argument is out of range, or a list does not fit the number of levels.
    """

    fixed_point_shapes: Tensor
    fixed_point_coder: Tensor

    def __init__(
        self,
        in_spec: FeatureSpec,
        num_classes: PositiveInt,
        *,
        scales: Sequence[PositiveFloat] | None = None,
        aspect_ratios: Sequence[Sequence[PositiveFloat]] | None = None,
        steps: Sequence[PositiveFloat] | None = None,
        single_level_scales: PositiveInt = 6,
        foreground_iou: Fraction = 0.5,
        crowd: Crowd = "ignore",
        normalizer: Normalizer = "all",
        negative_ratio: NonNegativeFloat = 3.0,
        min_negatives: NonNegativeInt = 3,
        coder_weights: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = (10.0, 10.0, 5.0, 5.0),
        smooth_l1_beta: NonNegativeFloat = 1.0,
        box_weight: NonNegativeFloat = 1.0,
        predictor: Literal["conv", "separable"] = "conv",
        score_threshold: FractionBelowOne = 0.01,
        candidates_per_level: PositiveInt = 1000,
        candidates_per_class: PositiveInt | None = None,
    ) -> None:
        super().__init__(in_spec, num_classes, crowd, normalizer, score_threshold, candidates_per_level)
        self.candidates_per_class, self.predictor = candidates_per_class, predictor
        self.foreground_iou = foreground_iou
        self.negative_ratio, self.min_negatives = negative_ratio, min_negatives
        self.smooth_l1_beta, self.box_weight = smooth_l1_beta, box_weight

        count = len(in_spec)
        rows = count if count > 1 else len(scales) - 1 if scales is not None else single_level_scales
        self.scales = list(spread_scales(rows) if scales is None else scales)
        ratios = spread_ratios(rows) if aspect_ratios is None else aspect_ratios
        self.spacing = self.spacing if steps is None else [float(step) for step in steps]
        _check_lengths(in_spec, rows, self.scales, ratios, self.spacing)
        shapes = [default_box_shapes(a, b, r) for a, b, r in zip(self.scales, self.scales[1:], ratios, strict=False)]
        if count == 1:
            shapes = [torch.cat(shapes)]
        self.num_boxes = self.priors_per_cell = [len(of_level) for of_level in shapes]
        self.register_buffer("fixed_point_shapes", to_fixed_point(torch.cat(shapes)), persistent=False)
        self.register_buffer("fixed_point_coder", to_fixed_point(torch.tensor(coder_weights)), persistent=False)

        boxes = list(zip(in_spec.channels, self.num_boxes, strict=True))
        make = lite_predictor if predictor == "separable" else _predictor
        self.cls_logits = nn.ModuleList(make(channels, n * (num_classes + 1)) for channels, n in boxes)
        self.box_deltas = nn.ModuleList(make(channels, n * 4) for channels, n in boxes)

    def describe(self) -> str:
        """One line: levels, default boxes per cell and their scales."""
        count = len(self.in_spec)
        note = " (a single level carries the boxes of all)" if count == 1 else ""
        return (
            f"SSD: {count} level{'s' if count > 1 else ''}, {', '.join(map(str, self.num_boxes))} default boxes per "
            f"cell{note}, scales {', '.join(f'{scale:.2f}' for scale in self.scales[:-1])} of the image"
        )

    def forward(self, features: Sequence[Tensor]) -> SSDOutputs:
        """Maps (B, C_l, H, W) per level to raw maps; equal in training and evaluation."""
        self.check(features)
        return SSDOutputs(
            tuple(predict(x) for predict, x in zip(self.cls_logits, features, strict=True)),
            tuple(predict(x) for predict, x in zip(self.box_deltas, features, strict=True)),
        )

    def class_rows(self) -> dict[str, ClassRows]:
        """See :class:`detfuse.heads.classes.Classed`."""
        last = "" if self.predictor == "conv" else "1."
        return {f"cls_logits.{i}.{last}": ClassRows(n, background=1) for i, n in enumerate(self.num_boxes)}

    def default_boxes(self, outputs: SSDOutputs, image_sizes: Tensor) -> list[Tensor]:
        """The default boxes of each level, (B, H * W * n, 4) xyxy in the order of the logits.

        They are fractions of their own image without its padding, which depends on the other images of a batch.

        Args:
            outputs: only the sizes of the maps matter.
            image_sizes: (B, 2) as (height, width).
        """
        sides = image_sizes.flip(-1)[:, None].float()
        shapes = torch.split(from_fixed_point(self.fixed_point_shapes), self.num_boxes)
        boxes = []
        for centers, of_level in zip(self.grids(outputs, 0.5), shapes, strict=True):
            half = (of_level * sides / 2)[:, None]  # (B, 1, n, 2)
            boxes.append(torch.cat([centers[:, None] - half, centers[:, None] + half], dim=-1).flatten(1, 2))
        return boxes

    def match(self, default_boxes: Tensor, boxes: Tensor, valid: Tensor) -> Match:
        """Which default box (B, A, 4) learns which of the boxes (B, N, 4)."""
        return match_default_boxes(default_boxes, boxes, valid, foreground_iou=self.foreground_iou)

    def fitting(self, maps: Sequence[Size], image_size: Size, boxes: Tensor) -> Tensor:
        """See :class:`detfuse.protocols.Fitting`: default boxes of enough overlap."""
        outputs = SSDOutputs(empty_maps(maps), ())
        priors = [level[0] for level in self.default_boxes(outputs, torch.tensor([image_size]))]
        return fitting_anchors(priors, boxes, self.foreground_iou)

    def loss(self, outputs: SSDOutputs, batch: Batch) -> dict[str, Tensor]:
        """``loss_cls`` (cross-entropy) and ``loss_box`` (smooth L1 on offsets); crowds and padded rows are no targets.

        An image without boxes teaches ``min_negatives`` times background; its box loss is exactly 0.
        """
        targets = batch.targets
        with torch.autocast(targets.boxes.device.type, enabled=False):
            priors = torch.cat(self.default_boxes(outputs, batch.image_sizes), dim=1)
            assigned = self.assign(self.match(priors, targets.boxes.float(), targets.valid), priors, batch)
            positive = assigned.positive
            negative = assigned.negative & torch.cat(self.inside(outputs, batch.image_sizes), dim=1)
            share = 1.0 / normalizer_of(positive.sum(), self.normalizer)
            classes = torch.where(positive, assigned.labels + 1, 0)  # 0 is the background
            entropy = cross_entropy(all_priors(outputs.logits, self.num_classes + 1), classes, positive | negative)
            cls = torch.where(positive, entropy, 0.0).sum() + self._hardest(entropy, positive, negative)
            wanted = encode_deltas(assigned.boxes, priors) * from_fixed_point(self.fixed_point_coder)
            box = smooth_l1_loss(all_priors(outputs.deltas, 4), wanted, self.smooth_l1_beta, positive).sum()
            return {"loss_cls": share * cls, "loss_box": self.box_weight * share * box}

    def _hardest(self, entropy: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Sum of the largest losses (B, A) among the negatives, as many in each image as it may have."""
        wanted = (self.negative_ratio * positive.sum(1, keepdim=True)).clamp(min=self.min_negatives)
        descending = entropy.masked_fill(~negative, -torch.inf).sort(dim=1, descending=True).values
        rank = torch.arange(entropy.shape[1], device=entropy.device)
        return torch.where((rank < wanted) & (descending > -torch.inf), descending, 0.0).sum()

    def candidates(self, outputs: SSDOutputs, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best of each level or of each class, see :class:`detfuse.protocols.Head`."""
        if self.candidates_per_class is None:
            return super().candidates(outputs, image_sizes)
        with torch.autocast(image_sizes.device.type, enabled=False):
            levels = list(self.levels(outputs, image_sizes))
            ranking, regression, priors = (torch.cat(column, dim=1) for column in zip(*levels, strict=True))
            inside = torch.cat(self.inside(outputs, image_sizes), dim=1)
            best = [
                best_of_level(of_class, inside, self.score_threshold, self.candidates_per_class)
                for of_class in torch.split(ranking, 1, dim=2)
            ]
            rows, scores = (torch.cat([getattr(b, name) for b in best], dim=1) for name in ("priors", "scores"))
            labels = torch.cat([torch.full_like(b.priors, label) for label, b in enumerate(best)], dim=1)
            boxes = self.decode(of_priors(regression, rows), of_priors(priors, rows))
            found = finish([boxes], [scores.clamp(min=0)], [labels], image_sizes, ANY_SIDE)
            of_level = [torch.full_like(level.ranking[0, :, 0], i).long() for i, level in enumerate(levels)]
            return (*found[:3], torch.cat(of_level)[rows])

    def levels(self, outputs: SSDOutputs, image_sizes: Tensor) -> Iterator[Level]:
        """Ranked by the class's softmax, which is the score."""
        for logits, deltas, boxes in zip(*outputs, self.default_boxes(outputs, image_sizes), strict=True):
            classes = by_prior(logits, self.num_classes + 1).float().softmax(dim=-1)
            yield Level(classes[..., 1:], by_prior(deltas, 4).float(), boxes)

    def decode(self, regression: Tensor, priors: Tensor) -> Tensor:
        """From offsets of default boxes."""
        return decode_deltas(regression / from_fixed_point(self.fixed_point_coder), priors)


def spread_scales(num_levels: int) -> list[float]:
    """COCO's scales for another number of levels (and the one beyond), linearly between the published ones."""
    last = len(COCO_SCALES) - 1
    scales = []
    for level in range(num_levels + 1):
        below, rest = divmod(last * level, num_levels)
        above = COCO_SCALES[min(below + 1, last)]
        scales.append(COCO_SCALES[below] + (above - COCO_SCALES[below]) * rest / num_levels)
    return scales


def spread_ratios(num_levels: int) -> list[list[float]]:
    """The published aspect ratios for another number of levels."""
    return [[2.0, 3.0] if 0 < level < num_levels - 2 else [2.0] for level in range(num_levels)]


def _check_lengths(
    in_spec: FeatureSpec, rows: int, scales: Sequence[float], ratios: Sequence[Sequence[float]], steps: Sequence[float]
) -> None:
    wanted = {"scales": (scales, rows + 1), "aspect_ratios": (ratios, rows), "steps": (steps, len(in_spec))}
    for name, (given, length) in wanted.items():
        if len(given) != length:
            raise InputError(
                f"SSDHead: the neck gives {len(in_spec)} levels (strides {in_spec.strides}), which takes {length} "
                f"{name}, but there are {len(given)}; null derives them from the levels"
            )


def _predictor(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that starts as the header says."""
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    fill_convolutions(layer)
    return layer
