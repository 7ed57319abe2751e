"""What dense heads share: priors on a grid, candidates of every level, and what each prior learns.

A dense head predicts classes and a box for every prior (anchor or point) of every level. What is left for a head of its
own: the layers and :meth:`~torch.nn.Module.forward`, its priors, how they are matched, its losses, and for the
candidates :meth:`DenseHead.levels` and :meth:`DenseHead.decode`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from detfuse.errors import InputError
from detfuse.heads.candidates import ANY_SIDE, best_of_level, cells_inside, finish
from detfuse.losses import Normalizer
from detfuse.ops.anchors import grid_points
from detfuse.ops.matching import Crowd, Match, boxes_in_crowds
from detfuse.structures import Batch, FeatureSpec, Size


class DenseOutputs(Protocol):
    """The raw maps of a dense head, finest level first; a NamedTuple that may have more."""

    @property
    def logits(self) -> tuple[Tensor, ...]:
        """(B, n * K, H, W) each: the classes of each of the n priors of a cell."""
        ...


Maps = TypeVar("Maps", bound=DenseOutputs)

Grid = Literal["exact", "torchvision", "effdet"]
"""Where the priors of a map lie, and which of them detect.

* ``exact``: cells are a nominal stride apart, anchors have the sizes asked for, and a cell that lies wholly in the
  padding detects nothing, nor does a box that is empty once it is clipped.
* ``torchvision``: as its published detectors learnt it. Cells are apart by the padded image's size over the map's, in
  whole pixels (61 in place of 64 where 800 pixels give 13 cells); anchors are rounded to whole pixels; cells in the
  padding and empty boxes are candidates as others are, so that a detection depends on the padding.
* ``effdet``: cells as ``exact``, candidates as ``torchvision``.
"""


class Level(NamedTuple):
    """What one level predicts, prior by prior: P of them, row by row, the n of a cell together.

    Attributes:
        ranking: (B, P, K) float32, orders the pairs of prior and class as their scores do.
        regression: (B, P, D) what is predicted of the boxes.
        priors: (P, E) or (B, P, E) what they are predicted for.
    """

    ranking: Tensor
    regression: Tensor
    priors: Tensor


class Assigned(NamedTuple):
    """What each prior learns.

    Attributes:
        positive: (B, A) bool, an object.
        negative: (B, A) bool, background; neither: nothing.
        labels: (B, A) int64, class of the object; any class where there is none.
        boxes: (B, A, 4) float32, box of the object; any box where there is none.
    """

    positive: Tensor
    negative: Tensor
    labels: Tensor
    boxes: Tensor


class DenseHead(nn.Module, ABC, Generic[Maps]):
    """The part of :class:`detfuse.protocols.Head` that is the same for all of them.

    Args:
        in_spec: the neck's levels.
        num_classes: K, without background.
        crowd: what the priors in a crowd learn that match no object.
        normalizer: whose images the losses are divided by.
        score_threshold: candidates have a higher score.
        candidates_per_level: at most.
        grid: see :data:`Grid`.

    Attributes:
        spacing: per level, distance of neighbouring cells in pixels; the strides, unless a head says otherwise.
        priors_per_cell: per level; 1, unless a head says otherwise.
    """

    compilable: bool = True

    def __init__(
        self,
        in_spec: FeatureSpec,
        num_classes: int,
        crowd: Crowd,
        normalizer: Normalizer,
        score_threshold: float,
        candidates_per_level: int,
        grid: Grid = "exact",
    ) -> None:
        super().__init__()
        self.in_spec, self.num_classes = in_spec, num_classes
        self.grid = grid
        self.crowd, self.normalizer = crowd, normalizer
        self.score_threshold, self.candidates_per_level = score_threshold, candidates_per_level
        self.spacing = [float(stride) for stride in in_spec.strides]
        self.priors_per_cell = [1] * len(in_spec)

    def check(self, features: Sequence[Tensor]) -> None:
        """Raise InputError unless there is one map per level."""
        if len(features) != len(self.in_spec):
            raise InputError(
                f"{type(self).__name__} was built for {len(self.in_spec)} levels (strides {self.in_spec.strides}), "
                f"got {len(features)}"
            )

    def grids(self, outputs: Maps, offset: float) -> list[Tensor]:
        """One point per cell of each level, (H * W, 2) as (x, y); ``offset`` is its place in the cell, in strides."""
        sizes = _sizes(outputs)
        device = outputs.logits[0].device
        return [grid_points(size, apart, offset, device) for size, apart in zip(sizes, self._apart(sizes), strict=True)]

    def _apart(self, sizes: Sequence[Size]) -> list[tuple[float, float]]:
        """Per level, the distance (y, x) of neighbouring cells in pixels."""
        if self.grid != "torchvision":
            return [(spacing, spacing) for spacing in self.spacing]
        first = int(self.spacing[0])  # padded images are a multiple of it
        height, width = sizes[0][0] * first, sizes[0][1] * first
        return [(height // size[0], width // size[1]) for size in sizes]

    def inside(self, outputs: Maps, image_sizes: Tensor) -> list[Tensor]:
        """Per level (B, P): the priors whose cell begins inside the image; the others must not detect."""
        levels = zip(_sizes(outputs), self.spacing, self.priors_per_cell, strict=True)
        if self.grid != "exact":
            everywhere = image_sizes[:, :1] > 0
            return [everywhere.expand(-1, size[0] * size[1] * priors) for size, _, priors in levels]
        return [cells_inside(size, spacing, image_sizes, priors) for size, spacing, priors in levels]

    # ---- learning

    def in_crowds(self, priors: Tensor, batch: Batch) -> Tensor:
        """Which priors (A, 4) or (B, A, 4) lie in a crowd, (B, A)."""
        targets = batch.targets
        return boxes_in_crowds(priors, targets.boxes.float(), targets.ignore, batch.image_sizes)

    def assign(self, match: Match, priors: Tensor, batch: Batch) -> Assigned:
        """What each prior learns when it is matched so: in crowds no background, unless asked for."""
        if self.crowd == "ignore":
            match = match.sparing(self.in_crowds(priors, batch))
        targets = batch.targets
        boxes = targets.boxes.float().gather(1, match.row[..., None].expand(-1, -1, 4))
        return Assigned(match.positive, match.negative, targets.labels.gather(1, match.row), boxes)

    # ---- candidates

    @abstractmethod
    def levels(self, outputs: Maps, image_sizes: Tensor) -> Iterator[Level]:
        """What each level predicts."""

    @abstractmethod
    def decode(self, regression: Tensor, priors: Tensor) -> Tensor:
        """Boxes (B, k, 4) xyxy from what is predicted of them (B, k, D) and for what (B, k, E)."""

    def ranking_of(self, score: float) -> float:
        """The ranking of a score; the same, unless a head ranks by another measure."""
        return score

    def score_of(self, ranking: Tensor) -> Tensor:
        """Inverse of :meth:`ranking_of`, taken of the chosen only; 0 of -inf."""
        return ranking.clamp(min=0)

    def candidates(self, outputs: Maps, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best boxes of each level, see :class:`detfuse.protocols.Head`."""
        least = 0.0 if self.grid == "exact" else ANY_SIDE
        return self.best(outputs, image_sizes, self.candidates_per_level, least)

    def best(
        self, outputs: Maps, image_sizes: Tensor, per_level: int, min_side: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The candidates, but of each level at most ``per_level``, and with sides of more than ``min_side`` pixels."""
        threshold = self.ranking_of(self.score_threshold)
        boxes, scores, labels = [], [], []
        with torch.autocast(image_sizes.device.type, enabled=False):
            levels = zip(self.levels(outputs, image_sizes), self.inside(outputs, image_sizes), strict=True)
            for level, inside in levels:
                best = best_of_level(level.ranking, inside, threshold, per_level)
                chosen = (of_priors(table, best.priors) for table in (level.regression, level.priors))
                boxes.append(self.decode(*chosen))
                scores.append(self.score_of(best.scores))
                labels.append(best.labels)
            return finish(boxes, scores, labels, image_sizes, min_side)


def empty_maps(sizes: Sequence[Size]) -> tuple[Tensor, ...]:
    """Maps without channels, in place of the logits where only their sizes matter."""
    return tuple(torch.empty(1, 0, *size) for size in sizes)


def _sizes(outputs: DenseOutputs) -> list[Size]:
    """Of the maps, (H, W)."""
    return [(x.shape[2], x.shape[3]) for x in outputs.logits]


def of_priors(table: Tensor, priors: Tensor) -> Tensor:
    """The rows (B, k, D) of some priors (B, k) in a table (P, D) of all images or (B, P, D)."""
    if table.ndim == 2:
        return table[priors]
    return table.gather(1, priors[..., None].expand(-1, -1, table.shape[-1]))


def by_cell(raw: Tensor, depth: int) -> Tensor:
    """A raw map (B, n * depth, H, W) as (B, H * W, n, depth), always a view."""
    return torch.unflatten(raw.permute(0, 2, 3, 1).flatten(1, 2), 2, (-1, depth))


def by_prior(raw: Tensor, depth: int) -> Tensor:
    """A raw map (B, n * depth, H, W) as (B, H * W * n, depth): row by row, the n priors of a cell together."""
    return by_cell(raw, depth).flatten(1, 2)


def all_priors(raw: Sequence[Tensor], depth: int) -> Tensor:
    """The raw maps of all levels as (B, A, depth) float32."""
    return torch.cat([by_prior(x, depth) for x in raw], dim=1).float()
