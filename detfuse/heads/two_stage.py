"""What two-stage heads share: from a first stage's boxes to proposals, to what is learnt of them, to candidates.

What is left for a head of its own: both stages' layers and :meth:`~torch.nn.Module.forward`, the names of its losses,
:meth:`TwoStageHead.best_boxes`, :meth:`TwoStageHead.second` and :meth:`TwoStageHead.places`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from detfuse.errors import InputError
from detfuse.heads.classes import ClassRows
from detfuse.heads.proposals import Proposals, propose, sample_rois
from detfuse.heads.second_stage import RoiPredictions, second_stage_candidates, second_stage_loss
from detfuse.losses import Normalizer
from detfuse.ops.anchors import from_fixed_point, to_fixed_point
from detfuse.ops.matching import Crowd, require_order
from detfuse.structures import Batch


class TwoStageOutputs(Protocol):
    """The raw maps of the first stage; a NamedTuple that has more."""

    @property
    def maps(self) -> Sequence[Tensor]:
        """(B, C, H, W) each: what the second stage pools from (:data:`detfuse.protocols.HANDED_ON`)."""
        ...


Staged = TypeVar("Staged", bound=TwoStageOutputs)


class TwoStageHead(nn.Module, ABC, Generic[Staged]):
    """The part of :class:`detfuse.protocols.Head` that is the same for all of them.

    Args:
        num_classes: K, without background.
        coder_weights: factors of the second stage's offsets (dx, dy, dw, dh).
        smooth_l1_beta: where its box loss turns from quadratic to linear.
        across_levels: whether proposals of different levels suppress each other.

    The others are explained at :class:`detfuse.heads.faster_rcnn.FasterRCNNHead`, whose arguments they are too.
    """

    compilable: bool = True
    fixed_point_coder: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        coder_weights: Sequence[float],
        smooth_l1_beta: float,
        across_levels: bool,
        train_candidates_per_level: int,
        train_proposals: int,
        candidates_per_level: int,
        proposals: int,
        proposal_iou: float,
        foreground_iou: float,
        background_iou: float,
        samples: int,
        positive_fraction: float,
        crowd: Crowd,
        normalizer: Normalizer,
        score_threshold: float,
        max_candidates: int,
    ) -> None:
        super().__init__()
        require_order(type(self).__name__, foreground_iou, background_iou)
        if len(coder_weights) != 4:
            raise InputError(f"{type(self).__name__}: coder_weights takes four numbers, got {list(coder_weights)}")
        self.num_classes = num_classes
        self.smooth_l1_beta, self.across_levels = smooth_l1_beta, across_levels
        self.train_candidates_per_level, self.train_proposals = train_candidates_per_level, train_proposals
        self.candidates_per_level, self.proposals = candidates_per_level, proposals
        self.proposal_iou = proposal_iou
        self.foreground_iou, self.background_iou = foreground_iou, background_iou
        self.samples, self.positive_fraction = samples, positive_fraction
        self.crowd, self.normalizer = crowd, normalizer
        self.score_threshold, self.max_candidates = score_threshold, max_candidates
        self.register_buffer("fixed_point_coder", to_fixed_point(torch.tensor(list(coder_weights))), persistent=False)

    def class_rows(self) -> dict[str, ClassRows]:
        """Of the second stage, see :class:`detfuse.heads.classes.Classed`."""
        return {"cls_logits.": ClassRows(background=1), "box_deltas.": ClassRows(each=4)}

    @abstractmethod
    def best_boxes(self, outputs: Staged, image_sizes: Tensor, per_level: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The first stage's candidates, see :meth:`detfuse.heads.dense.DenseHead.best`."""

    @abstractmethod
    def second(self, maps: Sequence[Tensor], boxes: Tensor) -> RoiPredictions:
        """What the second stage says of regions (B, R, 4)."""

    @abstractmethod
    def places(self, boxes: Tensor) -> Tensor:
        """(B, R) int64: the map that each of the regions (B, R, 4) is pooled from, as a place in the neck's levels."""

    def second_losses(self, outputs: Staged, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of the classes and of the boxes, float32 scalars; the regions are drawn at random.

        A batch without objects teaches background only: the box loss is exactly 0.
        """
        device = batch.targets.boxes.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            rois = sample_rois(
                self._proposals(outputs, batch.image_sizes, self.train_candidates_per_level, self.train_proposals),
                batch,
                foreground_iou=self.foreground_iou,
                background_iou=self.background_iou,
                crowd=self.crowd,
                size=self.samples,
                positive_fraction=self.positive_fraction,
            )
        predicted = self.second(outputs.maps, rois.boxes)
        with torch.autocast(device, enabled=False):
            coder = from_fixed_point(self.fixed_point_coder)
            return second_stage_loss(predicted, rois, coder=coder, beta=self.smooth_l1_beta, normalizer=self.normalizer)

    def candidates(self, outputs: Staged, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best pairs of proposal and class, see :class:`detfuse.protocols.Head`.

        The level of a candidate is the one that its proposal was pooled from.
        """
        proposals = self._proposals(outputs, image_sizes, self.candidates_per_level, self.proposals)
        predicted = self.second(outputs.maps, proposals.boxes)
        with torch.autocast(image_sizes.device.type, enabled=False):
            return second_stage_candidates(
                predicted,
                proposals,
                self.places(proposals.boxes),
                image_sizes,
                coder=from_fixed_point(self.fixed_point_coder),
                threshold=self.score_threshold,
                limit=self.max_candidates,
            )

    def _proposals(self, outputs: Staged, image_sizes: Tensor, per_level: int, limit: int) -> Proposals:
        found = self.best_boxes(outputs, image_sizes, per_level)
        return propose(found, limit=limit, iou_threshold=self.proposal_iou, across_levels=self.across_levels)
