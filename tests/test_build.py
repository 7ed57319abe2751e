from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from omegaconf import OmegaConf

from detfuse.build import (
    build_backbone,
    build_detector,
    build_neck,
    build_parts,
    instantiate,
    size_divisor,
    without_pretrained,
)
from detfuse.config import conf_dir
from detfuse.config.schema.compose import Composer
from detfuse.structures import IMAGENET, FeatureSpec


def compose(*overrides: str) -> dict[str, Any]:
    composed = Composer(conf_dir(), None, "train").compose(["neck.out_channels=16", "head.num_convs=1", *overrides])
    plain = OmegaConf.to_container(composed.config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_detector_is_built_from_the_default_configuration() -> None:
    detector = build_detector(compose(), num_classes=3)
    images = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    terms = detector.candidates(images, torch.tensor([[64, 96]]))
    assert terms[0].shape[-1] == 4


def test_weights_depend_on_the_seed_alone() -> None:
    config = compose()
    first = build_detector(config, 3)
    torch.rand(7)  # whatever was drawn before
    assert equal(first, build_detector(config, 3))
    assert not equal(first, build_detector({**config, "seed": 1}, 3))


def test_another_neck_leaves_the_other_parts_as_they_are() -> None:
    fpn, pafpn = (build_detector(compose(f"neck={neck}"), 3) for neck in ("fpn", "pafpn"))
    assert equal(fpn.backbone, pafpn.backbone)
    assert equal(fpn.head, pafpn.head)
    assert not equal(fpn.neck, pafpn.neck)


def test_a_backbone_may_come_first() -> None:
    config = compose()
    backbone = build_backbone(config)
    assert build_detector(config, 3, backbone).backbone is backbone


def test_images_are_padded_to_the_coarsest_backbone_stride() -> None:
    assert size_divisor(FeatureSpec((8, 8), (4, 8))) == 32
    assert size_divisor(FeatureSpec((8,), (64,))) == 64


def test_runtime_objects_reach_targets_unchanged() -> None:
    spec = FeatureSpec((8, 16), (8, 16))
    made = instantiate({"_target_": "builtins.dict", "levels": [1, 2], "nested": {"a": [1]}})(in_spec=spec)
    assert made["in_spec"] is spec
    assert type(made["levels"]) is list
    assert type(made["nested"]) is dict


def test_errors_of_nested_parts_keep_their_message() -> None:
    node = {
        "_target_": "builtins.dict",
        "x": {"_target_": "detfuse.structures.FeatureSpec", "channels": [], "strides": []},
    }
    with pytest.raises(ValueError, match="one width per stride") as error:
        instantiate(node)
    assert "Error in call" not in str(error.value)


def test_a_configuration_from_before_the_fill_still_builds_and_loads() -> None:
    spec, config = FeatureSpec((8, 8, 8), (8, 16, 32)), compose("neck=bifpn")
    new = build_neck(config, spec)
    del config["neck"]["fill"]
    old = build_neck(config, spec)
    assert isinstance(old, torch.nn.Module)
    assert isinstance(new, torch.nn.Module)
    old.load_state_dict(new.state_dict())


def half_file(folder: Path) -> str:
    """Weights of a model whose images have mean and deviation .5."""
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "w.pth")
    return f"backbone.pretrained={folder / 'w.pth'}"


def test_the_numbers_that_images_are_normalised_by_travel_in_the_configuration(tmp_path: Path) -> None:
    small = ("data.num_train=8", "data.num_val=4", f"data.root={tmp_path}")
    config = compose("backbone=timm", "backbone.name=test_resnet", half_file(tmp_path), *small)
    assert (config["detector"]["mean"], config["detector"]["std"]) == (None, None)
    parts = build_parts(config, stage="fit")
    assert parts.module.config["detector"]["mean"] == parts.module.config["detector"]["std"] == [0.5, 0.5, 0.5]
    (tmp_path / "w.pth").unlink()
    for again in (
        build_detector(without_pretrained(parts.module.config), 3),
        build_parts(parts.module.config, stage="fit", pretrained=False).detector,
    ):
        assert torch.equal(again.mean, parts.detector.mean)
        assert torch.equal(again.std, parts.detector.std)
    assert parts.module.config["backbone"] == config["backbone"]


def test_a_configuration_at_odds_with_its_weights_is_refused_before_the_data_is_read(tmp_path: Path) -> None:
    numbers = "detector.mean=[0.485,0.456,0.406]"
    config = compose("backbone=timm", "backbone.name=test_resnet", half_file(tmp_path), numbers, "data=coco")
    with pytest.raises(ValueError, match=r"detector\.mean=\[0\.485.*expect \[0\.5, 0\.5, 0\.5\]"):
        build_parts(config, stage="fit")
    assert build_detector(without_pretrained(config), 3).normalization.mean == IMAGENET.mean
