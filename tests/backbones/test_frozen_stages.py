"""Frozen is frozen, except for what is no part of the stage: attention in it."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from detfuse.attention.cbam import CBAM
from detfuse.attention.inserts import BACKBONE_SITES, AttentionChoice, Site, inserts_of
from detfuse.backbones.timm_backbone import TimmBackbone
from detfuse.backbones.torchvision_backbone import TorchvisionBackbone
from detfuse.training.optim import adamw

LIBRARIES = {"timm": TimmBackbone, "torchvision": TorchvisionBackbone}


def frozen_to_c4(library: str, site: Site, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    attention = {site: AttentionChoice(partial(CBAM, ratio=4))}
    return without_zeros(LIBRARIES[library](attention, name="resnet18", frozen_stages=4, **options))


def without_zeros(backbone: nn.Module) -> nn.Module:
    """A residual branch that starts at zero would hide what happens on it."""
    with torch.no_grad():
        for parameter in backbone.parameters():
            if not parameter.any():
                parameter.fill_(1.0)
    return backbone


def belongs(name: str, inserts: list[str]) -> bool:
    return name.startswith(tuple(f"{insert}." for insert in inserts))


def in_c5(name: str) -> bool:
    return ".layer4." in f".{name}."


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("site", BACKBONE_SITES)
def test_attention_in_frozen_stages_trains_and_nothing_else_of_them(library: str, site: Site) -> None:
    """Weights, norm statistics and weight decay; in the backbone itself, in a deep copy and in an average of it."""
    first = frozen_to_c4(library, site)
    copies = [first, copy.deepcopy(first), cast("nn.Module", AveragedModel(first).module)]
    for backbone in copies:
        inserts = list(inserts_of(backbone))
        frozen = {n for n in backbone.state_dict() if not belongs(n, inserts) and not in_c5(n)}
        assert len(frozen) > 60
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        optimizer = adamw(backbone, 8, lr=0.1, weight_decay=0.5)
        maps = backbone.eval().train()(torch.rand(2, 3, 64, 64))
        torch.stack([x.square().mean() for x in maps]).sum().backward()
        optimizer.step()
        moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
        assert not moved & frozen
        statistics = {n for n in before if belongs(n, inserts) and n.endswith(("running_mean", "running_var"))}
        assert statistics
        assert statistics <= moved
        learnt = {n for n, _ in backbone.named_parameters() if belongs(n, inserts)}
        assert {n for n in learnt if n.endswith("weight")} <= moved
        assert all(not insert.training for insert in inserts_of(backbone.eval()).values())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("norm", ["train", "sync", "frozen"])
def test_statistics_of_frozen_stages_stay_whatever_their_norms_are_converted_to(library: str, norm: str) -> None:
    backbone = frozen_to_c4(library, "stage", norm=norm).eval().train()
    inserts = list(inserts_of(backbone))
    before = {name: value.clone() for name, value in backbone.named_buffers() if not belongs(name, inserts)}
    backbone(torch.rand(2, 3, 64, 64))
    moved = {name for name, value in backbone.named_buffers() if name in before and not value.equal(before[name])}
    assert moved == {name for name in before if in_c5(name) and norm != "frozen"}


def test_a_frozen_stage_draws_no_random_numbers() -> None:
    """Stochastic depth and dropout are off in it, and on in what learns."""
    backbone = without_zeros(TimmBackbone(name="resnet18", drop_path=0.9, frozen_stages=4)).train()
    images = torch.rand(2, 3, 64, 64)
    maps = [backbone(images) for _ in range(4)]

    def vary(level: int) -> bool:
        return any(not torch.equal(cast("Tensor", found[level]), maps[0][level]) for found in maps)

    assert [vary(level) for level in range(3)] == [False, False, True]


def test_attention_in_a_stage_that_learns_follows_its_mode() -> None:
    backbone = frozen_to_c4("timm", "branch")
    for mode in (True, False):
        assert {insert.training for insert in inserts_of(backbone.train(mode)).values()} == {mode}
