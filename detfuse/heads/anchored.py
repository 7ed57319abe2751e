"""What heads of anchors share: where the anchors lie, and their logits and offsets as candidates."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from detfuse.errors import InputError
from detfuse.heads.dense import DenseHead, Level, by_prior, empty_maps
from detfuse.heads.tower import TowerHead
from detfuse.ops.anchors import from_fixed_point, grid_anchors
from detfuse.ops.boxes import decode_deltas
from detfuse.ops.matching import Match, fitting_anchors
from detfuse.structures import Size


class AnchoredOutputs(NamedTuple):
    """Raw maps per level, finest first; n anchors per cell.

    Attributes:
        logits: (B, n * K, H, W) each, the classes of an anchor together.
        deltas: (B, n * 4, H, W) each.
    """

    logits: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]


class ByAnchors(DenseHead[AnchoredOutputs]):
    """A dense head of logits and box offsets for anchors, which takes the sigmoid as score.

    Attributes:
        fixed_point_anchors: (L, n, 4) those of one cell of each level, centred at 0.
        center_offset: centre of the anchors within the cell, in strides; set by the head.
        foreground_iou: from which IoU on an anchor learns an object; likewise.
    """

    fixed_point_anchors: Tensor
    center_offset: float
    foreground_iou: float

    def anchors(self, outputs: AnchoredOutputs) -> list[Tensor]:
        """The anchors of each level, (H * W * n, 4) xyxy in the order of the logits."""
        at_origin = from_fixed_point(self.fixed_point_anchors)
        return [grid_anchors(*level) for level in zip(at_origin, self.grids(outputs, self.center_offset), strict=True)]

    def fitting(self, maps: Sequence[Size], image_size: Size, boxes: Tensor) -> Tensor:
        """See :class:`detfuse.protocols.Fitting`: anchors of enough overlap."""
        return fitting_anchors(self.anchors(AnchoredOutputs(empty_maps(maps), ())), boxes, self.foreground_iou)

    def levels(self, outputs: AnchoredOutputs, image_sizes: Tensor) -> Iterator[Level]:
        """Ranked by the logits."""
        for logits, deltas, anchors in zip(*outputs, self.anchors(outputs), strict=True):
            yield Level(by_prior(logits, self.num_classes).float(), by_prior(deltas, 4).float(), anchors)

    def decode(self, regression: Tensor, priors: Tensor) -> Tensor:
        """From offsets of anchors."""
        return decode_deltas(regression, priors)

    def ranking_of(self, score: float) -> float:
        """The score is the logit's sigmoid."""
        return math.log(score / (1 - score)) if score else -math.inf

    def score_of(self, ranking: Tensor) -> Tensor:
        """The sigmoid, of the chosen only; 0 of -inf."""
        return ranking.sigmoid()


class AnchoredHead(ByAnchors, TowerHead[AnchoredOutputs]):
    """One with a tower for the classes and one for the boxes.

    Attributes:
        num_anchors: n, per cell.
        anchor_sizes: per level, in pixels.
    """

    anchor_sizes: list[list[float]]

    def place_anchors(self, at_origin: Tensor) -> None:
        """Take (L, n, 4) in fixed point as the anchors of a cell.

        Raises:
            InputError: if there are none.
        """
        self.num_anchors = at_origin.shape[1] if len(at_origin) else 0
        if not self.num_anchors:
            raise InputError(f"{type(self).__name__} has no anchors: give at least one scale, shape and single level")
        self.priors_per_cell = [self.num_anchors] * len(self.in_spec)
        self.register_buffer("fixed_point_anchors", at_origin, persistent=False)

    def describe(self) -> str:
        """One line: levels, anchors per cell and their sizes."""
        sizes = [size for of_level in self.anchor_sizes for size in of_level]
        count = len(self.in_spec)
        note = " (a single level carries the anchors of all)" if count == 1 else ""
        return (
            f"{type(self).__name__.removesuffix('Head')}: {count} level{'s' if count > 1 else ''}, "
            f"{self.num_anchors} anchors per cell{note}, sizes {min(sizes):.0f} to {max(sizes):.0f} px"
        )

    @abstractmethod
    def match(self, anchors: Tensor, boxes: Tensor, valid: Tensor) -> Match:
        """Which anchor (A, 4) learns which of the boxes (B, N, 4)."""
