from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detfuse.annotations import offsets_of
from detfuse.data import AnnotationIndex, Transforms
from detfuse.detector import Detector
from detfuse.heads.faster_rcnn import FasterRCNNHead
from detfuse.heads.fcos import FCOSHead
from detfuse.heads.mscnn import MSCNNHead
from detfuse.heads.mscnn_proposal import MSCNNProposalHead
from detfuse.heads.retinanet import RetinaNetHead
from detfuse.heads.ssd import SSDHead
from detfuse.inspect.fit import fit_of, map_sizes
from detfuse.protocols import Fitting
from detfuse.structures import Categories, FeatureSpec, Size

SPEC = FeatureSpec((8, 8), (8, 16))
MAPS = [(16, 24), (8, 12)]


def at(x: float, y: float, width: float, height: float) -> list[float]:
    """Corners from the middle and the sides."""
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


@pytest.mark.parametrize(
    ("head", "boxes", "expected"),
    [
        # anchors of 32 and of 64 px; the fourth box is one's best, with an overlap of less than a half
        (
            RetinaNetHead(SPEC, 1, scales_per_octave=1, aspect_ratios=[1.0]),
            [at(64, 64, 32, 32), at(64, 64, 64, 64), at(64, 64, 4, 4), at(64, 64, 60, 12)],
            [(True, False), (False, True), (False, False), (False, False)],
        ),
        (
            FasterRCNNHead(SPEC, 1, anchor_scale=4.0, aspect_ratios=[1.0], rpn_foreground_iou=0.7),
            [at(64, 64, 32, 32), at(64, 64, 64, 64), at(64, 64, 24, 24)],
            [(True, False), (False, True), (False, False)],
        ),
        # the first level takes distances below 64 px; a box between the points has none
        (
            FCOSHead(SPEC, 1),
            [at(68, 68, 40, 40), at(72, 72, 140, 140), at(64, 64, 6, 6)],
            [(True, False), (False, True), (False, False)],
        ),
        # squares of .25 and .75 of the image's sides
        (
            SSDHead(SPEC, 1, scales=[0.25, 0.75, 0.8], aspect_ratios=[[], []]),
            [at(68, 68, 48, 32), at(72, 72, 144, 96), at(68, 68, 8, 8)],
            [(True, False), (False, True), (False, False)],
        ),
        (
            MSCNNProposalHead(SPEC, 1, template_sizes=[[(20, 20), (30, 10)], [(60, 60)]]),
            [at(68, 68, 10, 30), at(72, 72, 60, 60), at(68, 68, 30, 4)],
            [(True, False), (False, True), (False, False)],
        ),
    ],
    ids=["retinanet", "faster_rcnn", "fcos", "ssd", "mscnn_proposal"],
)
def test_heads_say_which_boxes_their_priors_fit(
    head: nn.Module, boxes: list[list[float]], expected: list[tuple[bool, bool]]
) -> None:
    assert isinstance(head, Fitting)
    counts = head.fitting(MAPS, (128, 192), torch.tensor(boxes))
    assert [tuple(row) for row in (counts > 0).tolist()] == expected


def test_a_second_stage_changes_nothing() -> None:
    head = MSCNNHead(SPEC, 1)
    boxes = torch.tensor([at(64, 64, 60, 60), at(64, 64, 5, 5)])
    assert head.fitting(MAPS, (128, 192), boxes).equal(head.proposer.fitting(MAPS, (128, 192), boxes))
    assert isinstance(head, Fitting)


class Backbone(nn.Module):
    out_spec = SPEC

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        size = images.shape[2] // 8, images.shape[3] // 8
        return [images.new_zeros(1, 8, *size), images.new_zeros(1, 8, size[0] // 2, size[1] // 2)]


class Neck(nn.Module):
    in_spec = out_spec = SPEC
    graph = None

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        return features

    def describe(self) -> str:
        return ""


def index_of(sizes: list[Size], boxes: list[list[list[float]]]) -> AnnotationIndex:
    rows = np.array([box for of_image in boxes for box in of_image], np.float64)
    return AnnotationIndex(
        source=Path("x"),
        root=Path("x"),
        file_names=tuple(map(str, range(len(sizes)))),
        sizes=np.array(sizes),
        annotation_ids=np.arange(len(rows)) + 1,
        ids=tuple(range(1, len(sizes) + 1)),
        categories=Categories((1,), ("a",)),
        offsets=offsets_of(np.array([len(of_image) for of_image in boxes])),
        boxes=rows,
        labels=np.zeros(len(rows), np.int64),
        crowd=np.arange(len(rows)) == 1,
        ignore=np.zeros(len(rows), np.bool_),
        areas=rows[:, 2] * rows[:, 3],
    )


def test_objects_are_tried_at_the_size_of_their_resized_image() -> None:
    head = RetinaNetHead(SPEC, 1, scales_per_octave=1, aspect_ratios=[1.0])
    detector = Detector(Backbone(), Neck(), head)
    # the same box in an image that is doubled, and in one that is kept; a crowd is none
    index = index_of([(64, 64), (128, 128)], [[[16, 16, 32, 32], [0, 0, 9, 9]], [[48, 48, 32, 32]]])
    fit = fit_of(detector, index, Transforms(short_side=128, long_side=None), 32)
    assert fit is not None
    assert (fit.names, fit.rows.tolist()) == (["P3", "P4"], [0, 2])
    assert (fit.priors > 0).tolist() == [[False, True], [True, False]]
    assert map_sizes(detector, (64, 96)) == [(8, 12), (4, 6)]
