from __future__ import annotations

import pytest
from contracts.composing import compose_train
from torch import nn

from detfuse.ablation.report.pairing import share_equal
from detfuse.build import build_detector

SMALL = ("neck.out_channels=16", "head.num_convs=1")


def linear(width: int, value: float) -> nn.Module:
    made = nn.Linear(width, 1, bias=False)
    nn.init.constant_(made.weight, value)
    return made


def test_weights_count_that_are_equal_in_name_shape_and_value() -> None:
    a = nn.ModuleDict(
        {"same": linear(6, 1.0), "value": linear(2, 1.0), "shape": linear(2, 1.0), "name": linear(2, 1.0)}
    )
    b = nn.ModuleDict({"same": linear(6, 1.0), "value": linear(2, 2.0), "shape": linear(4, 1.0)})
    assert share_equal(a, b) == pytest.approx(2 * 6 / (12 + 12))
    assert share_equal(b, a) == share_equal(a, b)
    assert share_equal(a, a) == 1
    assert share_equal(a, nn.ModuleDict({"other": linear(1, 1.0)})) == 0


def test_arms_of_one_seed_share_all_but_their_neck() -> None:
    fpn, pafpn = (build_detector(compose_train(*SMALL, f"neck={neck}"), 3) for neck in ("fpn", "pafpn"))
    outside = sum(p.numel() for part in (fpn.backbone, fpn.head) for p in part.parameters())
    total = sum(p.numel() for detector in (fpn, pafpn) for p in detector.parameters())
    assert 2 * outside / total < share_equal(fpn, pafpn) < 1
    other = build_detector(compose_train(*SMALL, "neck=fpn", "seed=1"), 3)
    assert share_equal(fpn, other) < 0.05
