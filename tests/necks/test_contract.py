"""A neck that is no fusion graph: the contract is all it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from contracts.composing import compose_train
from torch import Tensor, nn

from detfuse.ablation.plan.built import description_of
from detfuse.ablation.plan.equalise import EqualiseError, equalised
from detfuse.build import ConfigError, build_detector
from detfuse.cli.results import describe
from detfuse.structures import FeatureSpec
from detfuse.training.fusion_weights import learnt_weights


class Pool(nn.Module):
    """Every map to the width of the head, by what was learnt of one."""

    graph = None

    def __init__(self, in_spec: FeatureSpec, *, out_channels: int = 8) -> None:
        super().__init__()
        self.in_spec = in_spec
        self.out_spec = FeatureSpec((out_channels,) * len(in_spec), in_spec.strides)
        self.project = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_spec.channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [project(x) for project, x in zip(self.project, features, strict=True)]

    def describe(self) -> str:
        return "all by itself"


class Nameless(Pool):
    """It keeps half of the contract."""

    describe = property()  # type: ignore[assignment]  # as if it had none


def config_of(kind: type[nn.Module], *overrides: str) -> dict[str, Any]:
    config = compose_train("backbone=resnet10t", "neck=ssd_extras", "head.num_convs=1", *overrides)
    return {**config, "neck": {"_target_": f"{kind.__module__}.{kind.__qualname__}", "out_channels": 8}}


def test_it_is_built_told_and_described_like_any_other() -> None:
    config = config_of(Pool)
    detector = build_detector(config, 3)
    assert describe(detector, config).startswith("resnet10t + Pool (all by itself) + FCOSHead, ")
    assert learnt_weights(detector) == {}
    assert "parameters of the neck" in description_of(detector)
    assert "blocks" not in description_of(detector)
    with pytest.raises(EqualiseError, match="the arm's neck Pool has no norm"):
        equalised(config, compose_train("neck=fpn"), ["norm"])


def test_what_it_lacks_is_told() -> None:
    with pytest.raises(ConfigError, match="neck=Nameless is no neck yet: it has no describe"):
        build_detector(config_of(Nameless), 3)


def test_it_has_no_place_for_attention() -> None:
    with pytest.raises(ConfigError, match=r"attention\.lateral: neck=Pool has no such site, it takes no attention"):
        build_detector(config_of(Pool, "attention@attention.lateral=se"), 3)
