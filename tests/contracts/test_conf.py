"""conf/ offers every part that the code has."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest
import torch
from composing import compose_train, options
from torchvision import models

from detfuse.attention.inserts import Levels, Site
from detfuse.build import build_backbone, build_head, build_neck, with_normalization, without_pretrained
from detfuse.fusion.operators import OPERATORS
from detfuse.fusion.resample import DOWN, UP
from detfuse.necks import topologies
from detfuse.structures import IMAGENET, FeatureSpec


def test_there_is_a_yaml_for_every_shipped_choice() -> None:
    assert set(options("operator")) == set(OPERATORS)
    assert set(options("resample")) == (set(UP) | set(DOWN)) - {"subsample"}  # P6's form, pinned by the topologies
    assert set(options("neck")) >= set(topologies.__all__) - {"with_extra_levels"}


def test_every_site_has_a_place_and_its_levels() -> None:
    sites = list(get_args(Site))
    attention = compose_train()["attention"]
    assert [field.name for field in fields(Levels)] == sites
    assert [place for place in attention if place != "levels"] == sites


def test_the_published_ssd_normalises_as_caffe_did_and_as_imagenet_from_scratch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = compose_train("experiment=ssd300_vgg16")
    monkeypatch.setattr("detfuse.backbones.torchvision_backbone.require_reachable", lambda *_: None)
    with torch.device("meta"):  # 500 MB otherwise
        state = models.vgg16().state_dict()
        monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda *_, **__: state)
        published = with_normalization(config, build_backbone(config))["detector"]
        scratch = with_normalization(config, build_backbone(without_pretrained(config)))["detector"]
    assert published["mean"] == pytest.approx([0.48235, 0.45882, 0.40784])
    assert published["std"] == pytest.approx([1 / 255] * 3)
    assert (scratch["mean"], scratch["std"]) == (list(IMAGENET.mean), list(IMAGENET.std))


def test_the_published_ms_cnn_has_its_levels_and_fixes_conv1_and_conv2_in_the_second_phase() -> None:
    first = ("head.sampler=random", "head.box_weight=0.05", "head.second_stage_weight=0", "backbone.frozen_stages=0")
    for overrides, fixed in (((), ["features.0", "features.2", "features.5", "features.7"]), (first, [])):
        config = without_pretrained(compose_train("experiment=mscnn_vgg16", *overrides))
        with torch.device("meta"):
            backbone = build_backbone(config)
            neck = build_neck(config, backbone.out_spec)
            head = build_head(config, neck.out_spec, 4)
        assert neck.out_spec == FeatureSpec((512,) * 4, (8, 16, 32, 64))
        assert "4 levels, 7 branches, templates 60 to 480 px" in head.describe()
        names = {name for name, weight in backbone.named_parameters() if not weight.requires_grad}
        assert names == {f"model.{layer}.{kind}" for layer in fixed for kind in ("weight", "bias")}
