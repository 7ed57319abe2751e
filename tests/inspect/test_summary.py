from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from detfuse.attention.inserts import Insert
from detfuse.errors import InputError
from detfuse.inspect.cost import Cost, trace
from detfuse.inspect.summary import summarise


class Outputs(NamedTuple):
    classes: list[Tensor]
    priors: Tensor


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Conv2d(16, 4, 3, padding=1, bias=False)
        self.seen: dict[tuple[int, ...], Tensor] = {}

    def forward(self, maps: list[Tensor]) -> Outputs:
        for x in maps:
            self.seen.setdefault(tuple(x.shape), torch.zeros(5, device=x.device))  # as heads keep their anchors
        return Outputs([self.tower(x) for x in maps], torch.zeros(7, 4))

    def candidates(self, outputs: Outputs) -> Tensor:
        return outputs.classes[0].flatten(1).topk(5).values


class LateHead(Head):
    """Computes on what it has chosen, as a second stage does: a layer of its own, and a product of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(5, 300, bias=False)

    def candidates(self, outputs: Outputs) -> Tensor:
        chosen = self.second(super().candidates(outputs))
        return chosen @ chosen.T


class QueryHead(Head):
    """Calls a layer with weights, as a set of learnt queries is read."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(6, 5))
        self.read = nn.Linear(5, 3, bias=False)

    def candidates(self, outputs: Outputs) -> Tensor:
        read: Tensor = self.read(self.queries[None].expand(2, -1, -1))
        return read


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.model[0].weight.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.model(images)]


class Neck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(8, 16, 1)
        self.nodes = nn.ModuleDict({"down": nn.Conv2d(16, 16, 3, 2, 1)})

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x = self.lateral(maps[0])
        return [x, self.nodes["down"](x)]


class Stand(nn.Module):
    def __init__(self, head: Head | None = None) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = Backbone(), Neck(), head or Head()

    def forward(self, images: Tensor, image_sizes: Tensor) -> Outputs:
        assert images.dtype == torch.uint8
        assert image_sizes.shape == (len(images), 2)
        outputs: Outputs = self.head(self.neck(self.backbone(images / 255)))
        return outputs

    def candidates(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        return self.head.candidates(self(images, image_sizes))


@pytest.fixture
def detector() -> Stand:
    return Stand().train()


SIZE = (32, 64)


def test_costs_are_those_counted_by_hand(detector: Stand) -> None:
    costs = trace(detector, SIZE).costs
    c1, c2 = 16 * 32, 8 * 16  # pixels of the two maps
    assert costs["backbone"] == Cost(3 * 8 * 9 + 16, 16, 2 * c1 * 3 * 8 * 9)
    assert costs["neck.lateral"] == Cost(8 * 16 + 16, 8 * 16 + 16, 2 * c1 * 8 * 16)
    assert costs["neck.nodes"].flops == 2 * c2 * 16 * 16 * 9
    assert costs["head"].flops == 2 * (c1 + c2) * 16 * 4 * 9  # shared by both maps: counted twice
    for field in ("parameters", "trainable", "flops"):
        parts = sum(getattr(costs[part], field) for part in ("backbone", "neck", "head"))
        assert getattr(costs[""], field) == parts


def test_what_a_head_computes_after_its_maps_is_counted() -> None:
    costs, without = trace(Stand(LateHead()), SIZE).costs, trace(Stand(), SIZE).costs
    assert costs["head.second"] == Cost(1500, 1500, 2 * 1500)
    assert costs["head"].flops == without["head"].flops + 2 * 1500 + 2 * 300
    assert costs[""].flops == without[""].flops + 2 * 1500 + 2 * 300
    assert "head.second" in summarise(Stand(LateHead()), SIZE)


def test_a_layer_may_be_called_with_weights() -> None:
    detector = Stand(QueryHead())
    assert trace(detector, SIZE).costs["head.read"] == Cost(15, 15, 2 * 2 * 6 * 5 * 3)
    assert detector.head.queries.requires_grad


def test_table_shows_parts_costs_and_maps(detector: Stand) -> None:
    table = summarise(detector, SIZE)
    lines = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert "8x16x32 /2" in lines["backbone"]
    assert "16x16x32 /2, 16x8x16 /4" in lines["neck"]
    assert "classes: 4x16x32 /2, 4x8x16 /4" in lines["head"]
    total = trace(detector, SIZE).costs[""]
    assert f"{total.parameters:,}" in lines["total"]
    assert f"{total.flops / 1e9:.3f}" in lines["total"]
    assert {"backbone.model.0", "neck.nodes.down", "head.tower"} <= set(lines)
    assert "32 x 64 pixels" in table
    assert "multiply-add counts as two" in table


def test_nothing_of_the_detector_changes(detector: Stand) -> None:
    detector.neck.eval()
    detector.neck.nodes["down"].weight.grad = torch.ones_like(detector.neck.nodes["down"].weight)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    modes = [module.training for module in detector.modules()]
    random = torch.get_rng_state()
    summarise(detector, SIZE)
    assert all(torch.equal(before[key], value) for key, value in detector.state_dict().items())
    assert [module.training for module in detector.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert detector.neck.nodes["down"].weight.grad.eq(1).all()
    assert detector.neck.lateral.weight.grad is None
    assert detector.head.seen == {}
    assert not any(module._forward_hooks for module in detector.modules())


class Unfinished(Neck):
    """Makes a layer when it sees the first map."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        if not hasattr(self, "late"):
            self.late = nn.Conv2d(maps[0].shape[1], 16, 1)
        return super().forward(maps)


def test_layers_made_in_forward_are_refused_by_name(detector: Stand) -> None:
    detector.neck = Unfinished()
    with pytest.raises(InputError, match=r"neck\.late\.weight, neck\.late\.bias of Stand: made in forward.*in_spec"):
        trace(detector, SIZE)


def test_attention_has_a_table_of_its_own() -> None:
    detector = Stand()
    insert = Insert(nn.Conv2d(16, 16, 1, bias=False), "output", "p3", 3)
    detector.neck.nodes["down"] = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), insert)
    table = summarise(detector, (64, 96)).split("attention ")[1]
    row = next(line for line in table.splitlines() if "output p3: Conv2d" in line)
    assert row.split() == ["output", "p3:", "Conv2d", "256", "256", f"{2 * 256 * 16 * 24 / 1e9:.3f}", "16x16x24"]
    assert "attention" not in summarise(Stand(), (64, 96))
