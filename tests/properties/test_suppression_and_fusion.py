"""NMS, soft-NMS and box fusion against the papers' loops, with ties, padding, empty boxes and NaN among the scores."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slowly import Box, boxes, iou

from detfuse.ops.postprocess import Nms, SoftNms, WeightedBoxFusion
from detfuse.ops.suppression import best_apart
from detfuse.structures import Detections

_SCORES = st.sampled_from([0.0, 0.125, 0.25, 0.25, 0.5, 0.75, 1.0])


class Candidate(NamedTuple):
    box: Box
    score: float
    label: int
    level: int


def _candidates(scores: st.SearchStrategy[float] = _SCORES) -> st.SearchStrategy[list[Candidate]]:
    one = st.builds(Candidate, boxes(5), scores, st.integers(0, 1), st.integers(0, 2))
    return st.lists(one, max_size=9)


def _columns(candidates: list[Candidate]) -> tuple[Any, ...]:
    box, score, label, level = zip(*candidates, strict=True) if candidates else ((), (), (), ())
    whole = {"dtype": torch.int64}
    floats = torch.tensor(box, dtype=torch.float32).reshape(-1, 4), torch.tensor(score, dtype=torch.float32)
    return *floats, torch.tensor(label, **whole), torch.tensor(level, **whole)


def _best_first(candidates: list[Candidate]) -> list[Candidate]:
    """Without padding; NaN first, ties in the order given."""
    return sorted((c for c in candidates if c.score != 0), key=lambda c: -math.inf if math.isnan(c.score) else -c.score)


def _kept(candidates: list[Candidate], threshold: float, most: int, *, agnostic: bool) -> list[Candidate]:
    kept: list[Candidate] = []
    for one in _best_first(candidates):
        if all(
            iou(one.box, better.box) <= threshold or (one.label != better.label and not agnostic) for better in kept
        ):
            kept.append(one)
    return kept[:most]


def _are(found: Detections, expected: list[Candidate]) -> None:
    assert found.labels.tolist() == [one.label for one in expected]
    assert found.levels.tolist() == [one.level for one in expected]
    assert found.boxes.tolist() == [list(one.box) for one in expected]
    np.testing.assert_allclose(found.scores, np.array([one.score for one in expected]), rtol=1e-6)


@given(_candidates(st.one_of(_SCORES, st.just(math.nan))), st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_nms(candidates: list[Candidate], threshold: float, agnostic: bool) -> None:
    columns = _columns(candidates)
    expected = _kept(candidates, threshold, 4, agnostic=agnostic)
    _are(Nms(iou_threshold=threshold, max_detections=4, class_agnostic=agnostic)(*columns), expected)
    if not agnostic and candidates:
        rows, scores = best_apart(*(column[None] for column in columns[:3]), iou_threshold=threshold, limit=4)
        count = len(expected)
        np.testing.assert_array_equal(scores[0, :count], [one.score for one in expected])
        assert not scores[0, count:].any()
        apart = [id(one) for one in _kept(candidates, threshold, len(candidates), agnostic=False)]
        taken = {id(candidates[row]) for row in rows[0, :count].tolist()}  # which of equals is first, it does not say
        assert len(taken) == count
        assert taken <= set(apart)


@given(_candidates(), st.sampled_from(["linear", "gaussian"]), st.booleans())
def test_soft_nms(candidates: list[Candidate], method: Any, agnostic: bool) -> None:
    left = _best_first(candidates)
    expected: list[Candidate] = []
    while left and len(expected) < 6:
        best = max(left, key=lambda one: one.score)  # the first of several
        left = [one for one in left if one is not best]
        expected.append(best)
        for place, one in enumerate(left):
            overlap = np.float32(float(iou(best.box, one.box)))
            decay = np.exp(-(overlap**2) / np.float32(0.5)) if method == "gaussian" else 1 - overlap * (overlap > 0.25)
            if agnostic or one.label == best.label:
                left[place] = one._replace(score=float(np.float32(one.score) * np.float32(decay)))
    expected = [one for one in expected if one.score >= 0.1]
    rule = {"method": method, "sigma": 0.5, "iou_threshold": 0.25, "score_threshold": 0.1}
    _are(SoftNms(**rule, max_detections=6, class_agnostic=agnostic)(*_columns(candidates)), expected)


@given(_candidates(), st.sampled_from(["none", "members"]), st.booleans())
def test_weighted_box_fusion(candidates: list[Candidate], scaling: Any, agnostic: bool) -> None:
    levels = len({one.level for one in candidates})
    clusters: list[list[Candidate]] = []
    for one in _best_first(candidates):
        near = [cluster for cluster in clusters if agnostic or cluster[0].label == one.label]
        overlaps = [_iou(one.box, _mean(cluster)) for cluster in near]
        if overlaps and max(overlaps) > 0.4:
            near[overlaps.index(max(overlaps))].append(one)
        else:
            clusters.append([one])
    scale = [min(len(cluster), levels) / levels if scaling == "members" else 1.0 for cluster in clusters]
    scores = [factor * np.mean([one.score for one in cluster]) for factor, cluster in zip(scale, clusters, strict=True)]
    order = sorted(range(len(clusters)), key=lambda place: -scores[place])[:5]
    fuse = WeightedBoxFusion(iou_threshold=0.4, max_detections=5, score_scaling=scaling, class_agnostic=agnostic)
    found = fuse(*_columns(candidates))
    assert found.scores.tolist() == pytest.approx([scores[place] for place in order])
    assert found.labels.tolist() == [clusters[place][0].label for place in order]
    assert found.levels.tolist() == [clusters[place][0].level for place in order]
    for box, place in zip(found.boxes.tolist(), order, strict=True):
        assert box == pytest.approx(_mean(clusters[place]), abs=1e-5)


def _mean(cluster: list[Candidate]) -> list[float]:
    weight = sum(one.score for one in cluster)
    return [sum(one.score * one.box[side] for one in cluster) / weight for side in range(4)]


def _iou(a: Any, b: Any) -> float:
    """Of boxes with any sides."""
    across, along = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - across * along
    return across * along / union if union > 0 else 0.0
