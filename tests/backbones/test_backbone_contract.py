"""Every backbone in conf/ keeps the contract of detfuse.protocols.Backbone."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from detfuse.protocols import Backbone

FILES = ["resnet10t", "resnet18", "timm", "torchvision", "mobilenetv3_large", "efficientnet_b0"]
LARGE = ["resnet50", "resnet50_torchvision", "convnext_tiny", "swin_tiny", "densenet121", "vgg16", "vgg16_ssd"]


@pytest.fixture(scope="module")
def conf(repository: Any) -> Any:
    return repository / "conf" / "backbone"


def build(file: Any) -> nn.Module:
    arguments = yaml.safe_load(file.read_text())
    module, _, name = arguments.pop("_target_").rpartition(".")
    backbone = getattr(importlib.import_module(module), name)(**arguments)
    assert isinstance(backbone, nn.Module)
    return backbone


def test_every_file_is_tested(conf: Any) -> None:
    assert {file.stem for file in conf.glob("*.yaml")} == {*FILES, *LARGE}


@pytest.mark.parametrize("option", [*FILES, *LARGE])
def test_shapes_are_those_promised(conf: Any, option: str) -> None:
    with torch.device("meta"):
        backbone = build(conf / f"{option}.yaml")
    assert isinstance(backbone, Backbone)
    spec = backbone.out_spec
    assert spec.levels == ((3, 4) if option == "vgg16_ssd" else (3, 4, 5))  # SSD makes the others itself
    for height, width in ((64, 96), (160, 32)):
        features = backbone(torch.zeros(2, 3, height, width, device="meta"))
        assert isinstance(features, list)
        shapes = [(2, c, height // s, width // s) for c, s in zip(spec.channels, spec.strides, strict=True)]
        assert [tuple(feature.shape) for feature in features] == shapes


@pytest.mark.parametrize("option", FILES)
def test_every_parameter_learns_and_the_input_stays(conf: Any, option: str) -> None:
    torch.manual_seed(0)
    backbone = build(conf / f"{option}.yaml").train()
    images = torch.randn(2, 3, 64, 96)
    before = images.clone()
    features = backbone(images)
    sum(feature.square().mean() for feature in features).backward()
    assert torch.equal(images, before)
    assert all(torch.isfinite(feature).all() for feature in features)
    assert [key for key, p in backbone.named_parameters() if p.grad is None] == []
