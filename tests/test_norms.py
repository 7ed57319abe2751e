"""Group norm: one rule for necks and heads, which leaves a 1x1 map something to say."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from detfuse.fusion.operators import Add
from detfuse.fusion.resample import Nearest, StridedConv
from detfuse.heads.tower import ConvTower
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.topologies import bifpn, fpn
from detfuse.norms import group_norm
from detfuse.structures import FeatureSpec

SPEC = FeatureSpec((16, 32, 64), (8, 16, 32))


def neck(width: int, topology: Any = fpn) -> GraphNeck:
    torch.manual_seed(0)
    return GraphNeck(SPEC, Add, Nearest, StridedConv, topology=topology, out_channels=width, norm="group")


def groups(part: nn.Module) -> set[int]:
    return {module.num_groups for module in part.modules() if isinstance(module, nn.GroupNorm)}


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(256, 32), (512, 32), (128, 16), (64, 8), (32, 4), (68, 4), (20, 2), (12, 1), (8, 1), (7, 1), (4, 1), (1, 1)],
)
def test_groups_have_eight_channels_where_there_are_so_many(channels: int, expected: int) -> None:
    assert group_norm(channels).num_groups == expected
    assert groups(neck(channels)) == groups(ConvTower(channels, channels, 1, "group")) == {expected}


@pytest.mark.parametrize("width", [4, 32, 64])
@pytest.mark.parametrize("topology", [fpn, partial(bifpn, repeats=1)], ids=["fpn", "bifpn"])
def test_one_small_image_is_told_apart_from_another(width: int, topology: Any) -> None:
    """P7 of 128 pixels is 1 x 1: no constant, and no plus and minus one."""
    built = neck(width, topology)
    for training in (True, False):
        built.train(training)
        one, other = (
            built([torch.randn(1, c, s, s) for c, s in zip(SPEC.channels, (16, 8, 4), strict=True)])[-1] for _ in "ab"
        )
        assert one.shape == (1, width, 1, 1)
        assert one.abs().unique().numel() > width // 2
        assert (one - other).abs().mean() > 0.1
