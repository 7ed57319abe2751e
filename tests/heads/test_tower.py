from __future__ import annotations

from typing import Any

import pytest
import torch

from detfuse.heads.efficientdet import EfficientDetHead
from detfuse.heads.fcos import FCOSHead
from detfuse.heads.retinanet import RetinaNetHead
from detfuse.heads.tower import ConvTower
from detfuse.structures import FeatureSpec

TOWERS = [RetinaNetHead, FCOSHead, EfficientDetHead]


@pytest.mark.parametrize("head", TOWERS)
def test_unequal_widths_are_refused_with_both_and_the_remedy(head: Any) -> None:
    with pytest.raises(ValueError, match=r"level 3 \(stride 8\) has 64 .*level 5 \(stride 32\) has 256.*neck=fpn"):
        head(FeatureSpec((64, 64, 256), (8, 16, 32)), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"score_threshold": 1.0}, "score_threshold"),
        ({"num_convs": 0, "tower_channels": 32}, "no effect without a tower"),
        ({"num_convs": -1}, "num_convs"),
        ({"tower_channels": 0}, "tower_channels must be at least 1 or None, got 0"),
        ({"tower_channels": -4}, "tower_channels must be at least 1 or None, got -4"),
    ],
)
@pytest.mark.parametrize("head", [RetinaNetHead, FCOSHead])
def test_arguments_out_of_range_are_named(head: type, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head(FeatureSpec((16,), (8,)), **{"num_classes": 3, **options})


@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_every_parameter_of_a_tower_matters(norm: str) -> None:
    tower = ConvTower(8, 16, 2, norm)  # type: ignore[arg-type]  # parametrised Literal
    out = tower(torch.randn(2, 8, 5, 7, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (2, 16, 5, 7)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tower.parameters())


@pytest.mark.parametrize("head", TOWERS)
def test_without_convolutions_the_maps_reach_the_predictors(head: Any) -> None:
    features = [torch.randn(1, 16, 4, 4), torch.randn(1, 16, 2, 2)]
    built = head(FeatureSpec((16, 16), (8, 16)), 3, num_convs=0)
    before = [f.clone() for f in features]
    built(features)
    assert all(torch.equal(a, b) for a, b in zip(before, features, strict=True))


@pytest.mark.parametrize("head", TOWERS)
def test_wrong_number_of_levels_is_told(head: Any) -> None:
    with pytest.raises(ValueError, match="built for 2 levels"):
        head(FeatureSpec((16, 16), (8, 16)), 3)([torch.zeros(1, 16, 4, 4)])
