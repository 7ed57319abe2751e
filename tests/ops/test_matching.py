from __future__ import annotations

import torch
from torch import Tensor

from detfuse.ops.matching import match_anchors, match_points

ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20], [100, 100, 110, 110], [0, 0, 10, 14]])


def match(boxes: list[list[float]], valid: list[bool]) -> list[Tensor]:
    result = match_anchors(
        ANCHORS,
        torch.tensor([boxes], dtype=torch.float32),
        torch.tensor([valid]),
        foreground_iou=0.7,
        background_iou=0.4,
    )
    return [t[0] for t in result]


def test_thresholds_divide_positive_nothing_and_background() -> None:
    # IoU 1, .25, 0, 10/14 = .714
    row, positive, negative = match([[0, 0, 10, 10]], [True])
    assert positive.tolist() == [True, False, False, True]
    assert negative.tolist() == [False, True, True, False]
    assert row[positive].tolist() == [0, 0]
    row, positive, negative = match([[0, 0, 20, 10]], [True])  # IoU .5, .5, 0, .417: the best two are claimed
    assert positive.tolist() == [True, True, False, False]
    assert negative.tolist() == [False, False, True, False]


def test_a_claiming_object_gives_the_anchor_to_its_best_overlap() -> None:
    # the second object's best anchor is 0, which overlaps the first more (torchvision's and detectron2's rule)
    row, positive, _ = match([[0, 0, 10, 10], [0, 0, 5, 5]], [True, True])
    assert positive[0]
    assert row[0] == 0


def test_an_object_that_touches_no_anchor_claims_none() -> None:
    _, positive, negative = match([[500, 500, 510, 510]], [True])
    assert not positive.any()
    assert negative.all()


def test_padded_rows_and_crowds_match_nothing() -> None:
    _, positive, negative = match([[0, 0, 0, 0], [0, 0, 10, 10]], [False, False])
    assert not positive.any()
    assert negative.all()
    alone = match([[0, 0, 10, 10]], [True])
    padded = match([[0, 0, 10, 10]] + [[0, 0, 0, 0]] * 7, [True] + [False] * 7)
    for a, b in zip(alone, padded, strict=True):
        assert torch.equal(a, b)


def test_rows_keep_their_place_behind_padding() -> None:
    boxes = [[0.0, 0, 0, 0]] * 9 + [[100.0, 100, 110, 110]]
    row, positive, _ = match(boxes, [False] * 9 + [True])
    assert positive.tolist() == [False, False, True, False]
    assert row[2] == 9


def points_match(boxes: list[list[float]], *, radius: float = 1e6, lower: float = 0.0, upper: float = 1e6) -> list[int]:
    points = torch.tensor([[5.0, 5.0], [15.0, 5.0], [50.0, 50.0]])
    bounds = [torch.full((3,), value) for value in (lower, upper, radius)]
    table = torch.tensor([boxes], dtype=torch.float32)
    result = match_points(points, *bounds, table, torch.ones(1, len(boxes), dtype=torch.bool))
    return torch.where(result.positive, result.row, -1)[0].tolist()


def test_points_learn_the_smallest_box_around_them() -> None:
    assert points_match([[0, 0, 100, 100], [0, 0, 20, 10]]) == [1, 1, 0]
    assert points_match([[5, 0, 20, 10]]) == [-1, 0, -1]  # on the border is outside


def test_points_learn_near_the_middle_only() -> None:
    assert points_match([[0, 0, 100, 100]], radius=10.0) == [-1, -1, 0]


def test_size_ranges_are_half_open() -> None:
    box = [0.0, 0.0, 100.0, 100.0]  # farthest side: 95, 95, 50
    assert points_match([box], upper=95.0) == [-1, -1, 0]
    assert points_match([box], lower=95.0) == [0, 0, -1]
