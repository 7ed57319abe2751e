from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detfuse.ops.matching import boxes_in_crowds, match_anchors, match_points, points_in_crowds

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


SIZES = torch.tensor([[60, 100], [30, 100]])


def crowd_table(*rows: tuple[int, list[float]]) -> tuple[Tensor, Tensor]:
    """Boxes (2, 24, 4) and which are crowds: these rows of the first image. The others are not zero."""
    boxes = torch.tensor([0.0, 0.0, 100.0, 60.0]).repeat(2, 24, 1)
    ignore = torch.zeros(2, 24, dtype=torch.bool)
    for row, box in rows:
        boxes[0, row], ignore[0, row] = torch.tensor(box), True
    return boxes, ignore


@pytest.mark.parametrize("compiled", [False, True])
def test_a_prior_is_in_a_crowd_with_more_than_half_of_what_lies_in_the_image(compiled: bool) -> None:
    inside = torch.compile(boxes_in_crowds, fullgraph=True, backend="eager") if compiled else boxes_in_crowds
    priors = torch.tensor(
        [
            [10.0, 10.0, 30.0, 30.0],  # half of it: 0..20 of 10..30
            [9.0, 10.0, 29.0, 30.0],  # 11 of 20
            [50.0, 10.0, 70.0, 30.0],  # two crowds cover .4 each, neither of them half
            [-20.0, 10.0, 25.0, 30.0],  # 20 of 45, but of the 25 in the image
            [200.0, 0.0, 220.0, 20.0],  # in the padding
            [0.0, 0.0, 100.0, 60.0],  # larger than the crowds
            [95.0, 50.0, 95.0, 50.0],  # of no area
        ]
    )
    boxes, ignore = crowd_table((0, [0, 0, 20, 60]), (11, [50, 0, 58, 60]), (23, [62, 0, 70, 60]))
    found = inside(priors, boxes, ignore, SIZES)
    assert found.tolist() == [[False, True, False, True, False, False, False], [False] * 7]
    swapped = inside(priors.expand(2, -1, -1), boxes.flip(0), ignore.flip(0), SIZES)
    assert swapped.tolist() == found.flip(0).tolist()


def test_the_image_of_a_prior_ends_where_its_padding_begins() -> None:
    prior = torch.tensor([[0.0, 0.0, 40.0, 60.0]])  # the crowd covers a third of it, two thirds of it down to 30
    boxes, ignore = crowd_table((2, [0, 0, 40, 20]))
    boxes, ignore = boxes[:1].expand(2, -1, -1), ignore[:1].expand(2, -1)
    assert boxes_in_crowds(prior, boxes, ignore, SIZES).tolist() == [[False], [True]]


@pytest.mark.parametrize("compiled", [False, True])
def test_points_in_crowds(compiled: bool) -> None:
    inside = torch.compile(points_in_crowds, fullgraph=True, backend="eager") if compiled else points_in_crowds
    points = torch.tensor(
        [[10.0, 10.0], [9.9, 10.0], [20.0, 15.0], [19.9, 19.9], [19.0, 20.0], [0.0, 0.0], [55.0, 5.0]]
    )
    boxes, ignore = crowd_table((3, [10, 10, 20, 20]), (23, [50, 0, 60, 10]))
    found = inside(points, boxes, ignore)
    assert found.tolist() == [[True, False, False, True, False, False, True], [False] * 7]
