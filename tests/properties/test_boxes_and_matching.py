"""Boxes and matching against loops over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slowly import Box, area, boxes, iou, shared
from torch import Tensor

from detfuse.ops.boxes import clip_to_images, decode_deltas, encode_deltas, pairwise_iou
from detfuse.ops.matching import (
    Match,
    boxes_in_crowds,
    match_anchors,
    match_default_boxes,
    match_points,
    match_rois,
    points_in_crowds,
)

# (anchors, objects of an image: a box and whether the row is wanted); thresholds that single precision has exactly
_ROWS = st.lists(st.tuples(boxes(), st.booleans()), max_size=5)
_ANCHORS = st.lists(boxes(), min_size=1, max_size=8)
_THRESHOLDS = st.sampled_from([(0.5, 0.25), (0.75, 0.5), (0.5, 0.5), (0.0, 0.0), (1.0, 0.0)])


def _table(found: Sequence[Box]) -> Tensor:
    return torch.tensor(found, dtype=torch.float32).reshape(-1, 4)


def _objects(rows: Sequence[tuple[Box, bool]]) -> tuple[Tensor, Tensor]:
    """(1, N, 4) and (1, N), of at least one row, as batches have."""
    rows = rows or [((0, 0, 0, 0), False)]
    return _table([box for box, _ in rows])[None], torch.tensor([[wanted for _, wanted in rows]])


def _same(match: Match, expected: list[tuple[int | None, bool]]) -> None:
    """Of each prior: the row that it learns, None for none; whether it learns background."""
    learnt = [int(row) if positive else None for row, positive in zip(match.row[0], match.positive[0], strict=True)]
    assert list(zip(learnt, match.negative[0].tolist(), strict=True)) == expected
    assert ((match.row >= 0) & (match.row < 8)).all()


@given(st.lists(boxes(), min_size=1, max_size=4), _ANCHORS)
def test_overlap(one: list[Box], others: list[Box]) -> None:
    found = pairwise_iou(_table(one)[None], _table(others))[0]
    assert found.tolist() == [[pytest.approx(float(iou(a, b)), abs=1e-7) for b in others] for a in one]


@given(boxes(least=1), boxes(least=1), st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_codes_and_the_border(box: Box, anchor: Box, size: tuple[int, int]) -> None:
    centre = [(box[i] + box[i + 2] - anchor[i] - anchor[i + 2]) / 2 / (anchor[i + 2] - anchor[i]) for i in (0, 1)]
    ratio = [math.log((box[i + 2] - box[i]) / (anchor[i + 2] - anchor[i])) for i in (0, 1)]
    code = encode_deltas(_table([box]), _table([anchor]))
    assert code[0].tolist() == pytest.approx([*centre, *ratio], abs=1e-5)
    assert decode_deltas(code, _table([anchor]))[0].tolist() == pytest.approx(box, abs=1e-4)
    height, width = size
    cut = [min(max(box[i], 0), (width, height)[i % 2]) for i in range(4)]
    assert clip_to_images(_table([box])[None], torch.tensor([size]))[0, 0].tolist() == cut


@given(_ANCHORS, _ROWS, _THRESHOLDS)
def test_anchors_learn_what_they_overlap_and_the_best_of_an_object_learn_in_any_case(
    anchors: list[Box], rows: list[tuple[Box, bool]], thresholds: tuple[float, float]
) -> None:
    foreground, background = thresholds
    objects = [(row, box) for row, (box, wanted) in enumerate(rows) if wanted]
    tops = {row: max(iou(anchor, box) for anchor in anchors) for row, box in objects}
    expected: list[tuple[int | None, bool]] = []
    for anchor in anchors:
        best, row = max(((iou(anchor, box), -row) for row, box in objects), default=(-1, 0))
        claimed = any(tops[row] > 0 and iou(anchor, box) == tops[row] for row, box in objects)
        positive = best >= foreground or claimed
        expected.append((-row if positive else None, best < background and not positive))
    thresholds_of = {"foreground_iou": foreground, "background_iou": background}
    _same(match_anchors(_table(anchors), *_objects(rows), **thresholds_of), expected)


@given(_ANCHORS, _ROWS, _THRESHOLDS)
def test_default_boxes_and_rois(
    priors: list[Box], rows: list[tuple[Box, bool]], thresholds: tuple[float, float]
) -> None:
    foreground, background = thresholds
    objects = [(row, box) for row, (box, wanted) in enumerate(rows) if wanted]
    best = [max(((iou(prior, box), -row) for row, box in objects), default=(-1, 0)) for prior in priors]
    claims: dict[int, list[int]] = {}
    for row, box in objects:
        overlaps = [iou(prior, box) for prior in priors]
        if max(overlaps) > 0:
            claims.setdefault(overlaps.index(max(overlaps)), []).append(row)
    alone = [-row if value >= foreground else None for value, row in best]
    boxes_of, valid = _objects(rows)
    of_image = _table(priors)
    for contested, winner, table in (("last", -1, of_image[None]), ("first", 0, of_image)):
        learnt = [claims[place][winner] if place in claims else row for place, row in enumerate(alone)]
        found = match_default_boxes(table, boxes_of, valid, foreground_iou=foreground, contested=contested)
        _same(found, [(row, row is None) for row in learnt])
    rois = match_rois(_table(priors)[None], boxes_of, valid, foreground_iou=foreground, background_iou=background)
    _same(rois, [(row, row is None and value < background) for row, (value, _) in zip(alone, best, strict=True)])


_POINTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=8)


@given(_POINTS, _ROWS, st.integers(0, 6), st.integers(0, 9), st.integers(0, 8))
def test_points_learn_the_smallest_box_around_them(
    points: list[tuple[int, int]], rows: list[tuple[Box, bool]], lower: int, upper: int, radius: int
) -> None:
    expected: list[tuple[int | None, bool]] = []
    for x, y in points:
        fitting = []
        for row, (box, wanted) in enumerate(rows):
            sides = [x - box[0], y - box[1], box[2] - x, box[3] - y]
            off = max(abs(2 * x - box[0] - box[2]), abs(2 * y - box[1] - box[3])) / 2
            if wanted and min(sides) > 0 and off < radius and lower <= max(sides) < upper:
                fitting.append((area(box), row))
        learnt = min(fitting)[1] if fitting else None
        expected.append((learnt, learnt is None))
    bounds: list[Any] = [torch.full((len(points),), float(bound)) for bound in (lower, upper, radius)]
    _same(match_points(torch.tensor(points, dtype=torch.float32), *bounds, *_objects(rows)), expected)


@given(_ANCHORS, _POINTS, _ROWS, st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_what_lies_in_a_crowd(
    priors: list[Box], points: list[tuple[int, int]], rows: list[tuple[Box, bool]], size: tuple[int, int]
) -> None:
    crowds = [box for box, is_crowd in rows if is_crowd]
    height, width = size
    visible = [(min(x0, width), min(y0, height), min(x1, width), min(y1, height)) for x0, y0, x1, y1 in priors]
    mostly = [any(2 * shared(prior, crowd) > area(prior) for crowd in crowds) for prior in visible]
    boxes_of, ignore = _objects(rows)
    assert boxes_in_crowds(_table(priors), boxes_of, ignore, torch.tensor([size]))[0].tolist() == mostly
    inside = [any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in crowds) for x, y in points]
    assert points_in_crowds(torch.tensor(points, dtype=torch.float32), boxes_of, ignore)[0].tolist() == inside
