"""Scores of each level by a line in the logit, and what combinations make of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from detfuse.build import ConfigError, build_combine
from detfuse.errors import InputError
from detfuse.ops.calibration import calibrated, fitted_lines, on_objects
from detfuse.ops.postprocess import Nms, SoftNms, WeightedBoxFusion

TRUE = [(0.5, 1.0), (2.0, -1.5)]


def drawn(count: int = 20_000) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of two levels, and hits as often as the true lines have it."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(2, (count,), generator=generator)
    scores = torch.sigmoid(1.5 * torch.randn(count, generator=generator))
    wanted = calibrated(scores, levels, TRUE)
    return scores, torch.rand(count, generator=generator) < wanted, levels


def test_the_line_of_each_level_is_found() -> None:
    scores, hits, levels = drawn()
    lines = fitted_lines(scores, hits, levels, 3)
    for found, true in zip(lines, TRUE, strict=False):
        assert found == pytest.approx(true, abs=0.1)
    assert lines[2] == pytest.approx((1, 0)), "a level without candidates says what it says"
    told = calibrated(scores, levels, lines)
    for level in (0, 1):
        of_level = told[levels == level]
        assert of_level.mean().item() == pytest.approx(hits[levels == level].float().mean().item(), abs=1e-3)
        assert (of_level[scores[levels == level].argsort()].diff() >= 0).all(), "within a level the order stays"


def test_a_level_with_few_candidates_stays_near_what_it_says() -> None:
    few = torch.tensor([0.6, 0.7, 0.9])
    ((slope, offset),) = fitted_lines(few, torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64), 1)
    assert 0.5 < slope < 2
    assert 0 < offset < 1


def test_padding_and_what_is_no_number_stay() -> None:
    scores = torch.tensor([0.0, float("nan"), 0.5, 1.0])
    found = calibrated(scores, torch.tensor([0, 0, 1, 1]), [(1.0, 0.0), (1.0, 2.0)])
    assert found[0] == 0
    assert found[1].isnan()
    assert found[2].item() == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert 0.99 < found[3] <= 1


@pytest.mark.parametrize("make", [Nms, SoftNms, WeightedBoxFusion])
def test_levels_are_compared_by_what_their_scores_are_worth(make: Any) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    given = (boxes, torch.tensor([0.6, 0.5]), torch.tensor([0, 0]), torch.tensor([0, 1]))
    lines = [[1.0, -2.0], [1.0, 0.0]]
    assert make()(*given).levels[0] == 0
    assert make(calibration="platt")(*given).scores.tolist() == make()(*given).scores.tolist()  # not fitted yet
    found = make(calibration=lines)(*given)
    assert found.levels[0] == 1
    assert torch.equal(found.scores, make()(boxes, calibrated(given[1], given[3], lines), *given[2:]).scores)
    for wrong, told in (([[1.0, 0.0]], "1 lines and the candidates are of 2"), ([[0.0, 1.0]] * 2, "no slope above 0")):
        with pytest.raises(InputError, match=told):
            make(calibration=wrong)(*given)
    with pytest.raises(InputError, match="calibration must"):
        make(calibration="plat")


def test_what_lies_on_an_object_of_its_class_is_right_and_what_lies_in_a_crowd_is_neither() -> None:
    objects = torch.tensor([[0.0, 0, 10, 10], [50, 50, 90, 90]])
    boxes = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 4], [0, 0, 10, 10], [60, 60, 70, 70], [20, 20, 30, 30]])
    labels = torch.tensor([1, 1, 0, 2, 1])
    hits, counted = on_objects(boxes, labels, objects, torch.tensor([1, 2]), torch.tensor([False, True]))
    assert hits.tolist() == [True, False, False, False, False]
    assert counted.tolist() == [True, True, True, False, True]
    hits, counted = on_objects(boxes, labels, objects[:0], labels[:0], torch.zeros(0, dtype=torch.bool))
    assert not hits.any()
    assert counted.all()


def test_what_cannot_be_fitted_is_told() -> None:
    node = {"_target_": "detfuse.ops.postprocess.Nms", "calibration": "platt"}
    config: dict[str, Any] = {"combine": node, "data": {"loader": {"hold_back": 0.1}}}
    assert build_combine(config) is not None
    with pytest.raises(ConfigError, match=r"evaluate.*says the numbers to give here"):
        build_combine(config, fitted=True)
    with pytest.raises(ConfigError, match=r"hold some back when training, by data.loader.hold_back=0.1"):
        build_combine({**config, "data": {"loader": {}}})  # a checkpoint that is older than the setting
