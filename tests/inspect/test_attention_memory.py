"""Quadratic attention is predicted from the largest padded image, and refused where it cannot fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detfuse.attention import SAGAN, SE, NonLocal
from detfuse.attention.inserts import AttentionChoice
from detfuse.backbones.timm_backbone import TimmBackbone
from detfuse.detector import Detector
from detfuse.fusion.operators import Add
from detfuse.fusion.resample import Nearest, StridedConv
from detfuse.heads.fcos import FCOSHead
from detfuse.inspect.attention_memory import device_memory, least_bytes, require_fit
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.topologies import fpn


def detector(kind: type[nn.Module], *levels: int) -> Detector:
    backbone = TimmBackbone(name="resnet10t")
    attention = {"lateral": AttentionChoice(kind, levels or None)}
    neck = GraphNeck(backbone.out_spec, Add, Nearest, StridedConv, attention, topology=fpn, out_channels=16)  # type: ignore[arg-type]  # a plain string as site
    return Detector(backbone, neck, FCOSHead(neck.out_spec, 3, num_convs=1))


def test_the_prediction_is_that_of_the_insert_on_its_map() -> None:
    model = detector(SAGAN, 3)
    needs = least_bytes(model, (256, 320), batch=2, dtype_bytes=4)
    assert needs == {"neck.inserts.lateral_c3->t3": SAGAN(16).peak_bytes(32, 40, 2)}
    quarter = least_bytes(model, (128, 160), batch=2, dtype_bytes=4)
    assert sum(needs.values()) == 16 * sum(quarter.values())


def test_what_cannot_fit_is_refused_with_the_numbers() -> None:
    model = detector(NonLocal)
    needs = least_bytes(model, (800, 1216), batch=8, dtype_bytes=4)
    assert len(needs) == 3
    bound = max(needs.values()) + (sum(needs.values()) - max(needs.values())) // 3
    require_fit(model, (800, 1216), 8, dtype_bytes=4, available=bound)
    number = f"at least {bound / 2**30:.1f} GiB"
    with pytest.raises(ValueError, match=rf"{number}.*8 images of 800 x 1216.*NonLocal at lateral c3->t3.*levels"):
        require_fit(model, (800, 1216), 8, dtype_bytes=4, available=bound - 1)
    require_fit(model, (800, 1216), 8, dtype_bytes=4, available=None)


def test_linear_attention_needs_no_prediction() -> None:
    require_fit(detector(SE), (4096, 4096), 64, dtype_bytes=4, available=1)


def test_this_machine_has_some_memory() -> None:
    found = device_memory(torch.device("cpu"))
    assert found is None or found > 2**28
