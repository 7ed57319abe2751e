from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from detfuse.attention.inserts import AttentionChoice, Site, Sites, inserts_of
from detfuse.attention.se import SE
from detfuse.backbones.torchvision_backbone import TorchvisionBackbone


def test_maps_are_those_of_the_model_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = resnet18().eval()
    torch.save(model.state_dict(), tmp_path / "r.pth")
    backbone = TorchvisionBackbone(name="resnet18", levels=[2, 3], pretrained=str(tmp_path / "r.pth")).eval()
    images = torch.randn(1, 3, 64, 96)
    c2 = model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(images)))))
    torch.testing.assert_close(backbone(images), [c2, model.layer2(c2)])


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("mobilenet_v3_small", (24, 48, 576)),  # outputs of blocks, not of their inner expansions
        ("shufflenet_v2_x0_5", (48, 96, 1024)),
        ("regnet_y_400mf", (104, 208, 440)),
    ],
)
def test_last_block_of_each_stride(name: str, channels: tuple[int, ...]) -> None:
    assert TorchvisionBackbone(name=name).out_spec.channels == channels


def test_nhwc_maps_become_nchw() -> None:
    with torch.device("meta"):
        backbone = TorchvisionBackbone(name="swin_t", levels=[2, 3])
    features = backbone(torch.zeros(1, 3, 64, 96, device="meta"))
    assert [tuple(x.shape) for x in features] == [(1, 96, 16, 24), (1, 192, 8, 12)]


def test_mistakes_are_answered() -> None:
    with pytest.raises(ValueError, match=r"no model 'resnet-18'.*resnet18"):
        TorchvisionBackbone(name="resnet-18")
    with pytest.raises(ValueError, match=r"strides: 2 .*32 "):
        TorchvisionBackbone(name="resnet18", levels=[6])
    with pytest.raises(ValueError, match=r"alexnet: .*strides: none"):
        TorchvisionBackbone(name="alexnet")
    with pytest.raises(ValueError, match=r"no pretrained weights 'IMAGENET1K_V9'.*IMAGENET1K_V1"):
        TorchvisionBackbone(name="resnet18", pretrained="IMAGENET1K_V9")


def test_unused_stages_do_not_exist_and_the_rest_learns() -> None:
    backbone = TorchvisionBackbone(name="resnet18", levels=[2, 3], frozen_stages=1).train()
    assert not [key for key in backbone.state_dict() if key.startswith(("model.layer3", "model.layer4", "model.fc"))]
    sum(feature.mean() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    frozen = {key.split(".")[1] for key, p in backbone.named_parameters() if p.grad is None}
    assert frozen == {"conv1", "bn1"}
    assert backbone.model.bn1.num_batches_tracked == 0
    assert backbone.model.get_submodule("layer1.0").bn1.num_batches_tracked == 1


def test_a_copy_freezes_its_own_stages() -> None:
    backbone = TorchvisionBackbone(name="resnet18", levels=[3], frozen_stages=2, norm="frozen")
    twin = copy.deepcopy(backbone).train()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(twin(images), backbone(images))
    assert not any(p.requires_grad for p in twin.model.layer1.parameters())
    assert not twin.model.layer1.training
    assert twin.model.layer2.training


AT_STAGES: Sites = {"stage": AttentionChoice(partial(SE, ratio=4))}


@torch.no_grad()
def test_attention_at_the_last_layer_of_a_stage_reaches_its_map_and_the_next_stages() -> None:
    first = TorchvisionBackbone(AT_STAGES, name="mobilenet_v3_small", levels=[2, 5])
    assert [insert.at for insert in inserts_of(first).values()] == ["c2", "c5"]
    images = torch.randn(2, 3, 64, 64)
    for backbone in (first, copy.deepcopy(first)):
        for at, changed in (("c5", [False, True]), ("c2", [True, True])):
            for training in (True, False):
                before = backbone.train(training)(images)
                (insert,) = (insert for insert in inserts_of(backbone).values() if insert.at == at)
                kept, insert.attention = insert.attention, torch.nn.Threshold(math.inf, 0.0)  # always zero
                after = backbone(images)
                insert.attention = kept
                assert [not torch.equal(a, b) for a, b in zip(before, after, strict=True)] == changed


@pytest.mark.parametrize(
    ("name", "site", "message"),
    [
        ("resnet18", "stage", r"resnet18 has no such site, since only timm's .*backbone.name=resnet18\); .*: none"),
        ("mobilenet_v3_small", "branch", r"backbone.name=resnet50\); it offers: none"),
        ("shufflenet_v2_x0_5", "stage", "backbone.name=resnet50"),
    ],
)
def test_where_torchvision_has_no_place_for_attention_timms_model_is_named(name: str, site: Site, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchvisionBackbone({site: AT_STAGES["stage"]}, name=name)


def test_attention_of_checkpoints_from_when_it_stood_in_the_traced_model_is_read() -> None:
    with torch.device("meta"):
        backbone = TorchvisionBackbone(AT_STAGES, name="vgg11", levels=[3, 4])
    state = backbone.state_dict()
    old = {f"model.{key}" if key.startswith("attention.") else key: value for key, value in state.items()}
    assert old.keys() != state.keys()
    backbone.load_state_dict(
        {key: torch.full_like(value, 7.0, device="cpu") for key, value in old.items()}, assign=True
    )
    assert all((value == 7).all() for value in backbone.state_dict().values())


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_exports_and_compiles_whole(mode: bool) -> None:
    backbone = TorchvisionBackbone(name="resnet18", levels=[2], norm="frozen").train(mode)
    images = torch.randn(1, 3, 64, 96)
    expected = backbone(images)
    torch.testing.assert_close(list(torch.export.export(backbone, (images,), strict=True).module()(images)), expected)
    torch.testing.assert_close(torch.compile(backbone, fullgraph=True, backend="eager")(images), expected)


def test_layers_take_the_place_of_the_levels_own() -> None:
    """Two maps of one size: the finer level bears a nominal stride, the coarsest its own."""
    with torch.device("meta"):
        backbone = TorchvisionBackbone(
            name="mobilenet_v3_small", levels=(4, 5), layers=("features.9", "features.12"), norm_eps=1e-5
        )
        assert [tuple(x.shape[2:]) for x in backbone(torch.zeros(1, 3, 64, 96))] == [(2, 3), (2, 3)]
        assert backbone.out_spec.strides == (16, 32)
        assert {m.eps for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}
        with pytest.raises(
            ValueError, match=r"features.77 is no module of it that gives a map; near it are features.7"
        ):
            TorchvisionBackbone(name="mobilenet_v3_small", levels=(4, 5), layers=("features.77", "features.12"))
        with pytest.raises(ValueError, match=r"give maps of strides \[16, 16\], levels \[4, 5\] name \[16, 32\]"):
            TorchvisionBackbone(name="mobilenet_v3_small", levels=(4, 5), layers=("features.7", "features.8"))
        with pytest.raises(ValueError, match="only mobilenet_v3_large and _small have a reduced tail"):
            TorchvisionBackbone(name="resnet18", reduced_tail=True)
