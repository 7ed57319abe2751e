"""Every edge is a module that is found by its name: it can be measured, changed, switched off and replaced."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detfuse.attention.cbam import CBAM
from detfuse.attention.inserts import AttentionChoice, make_insert
from detfuse.fusion.operators import Add
from detfuse.fusion.resample import UP, Nearest, StridedConv
from detfuse.initialisation import initialised
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.topologies import (
    bifpn,
    dense_pyramid,
    early,
    early_pyramid,
    fcn_skip,
    fpn,
    hypernet,
    pafpn,
    unet,
    unfused,
)
from detfuse.structures import Categories, FeatureSpec
from detfuse.weights import Checkpoint, load_weights

SPEC = FeatureSpec((4, 6, 10), (8, 16, 32))
TOPOLOGIES = [
    *(unfused, early, early_pyramid, hypernet, fpn, fcn_skip, dense_pyramid, unet, pafpn),
    partial(bifpn, repeats=1),
]
LATERAL: Any = {"lateral": AttentionChoice(partial(CBAM, ratio=2))}


def features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((9, 14), (5, 7), (3, 4))
    return [torch.randn(2, c, *s, generator=generator) for c, s in zip(SPEC.channels, sizes, strict=True)]


def neck(topology: Any = fpn, up: Any = Nearest, **more: Any) -> GraphNeck:
    torch.manual_seed(0)
    return GraphNeck(SPEC, Add, up, StridedConv, topology=topology, **{"out_channels": 8, **more}).eval()


@pytest.mark.parametrize(
    ("up", "topology"),
    [case for case in product(["nearest", "sapa"], TOPOLOGIES) if case != ("sapa", hypernet)],  # it guides nothing
)
def test_every_edge_has_a_module_that_is_called_once(topology: Any, up: str) -> None:
    part = neck(topology, UP[up], norm="batch")
    assert list(part.edges) == [f"{source}->{node}" for source, node in part.graph.edges]
    arrived: dict[str, Tensor] = {}
    for name, edge in part.edges.items():
        edge.register_forward_hook(
            lambda _edge, _given, y, name=name: arrived.setdefault(f"{name}{'!' * (name in arrived)}", y)
        )
    fused: dict[str, Tensor] = {}
    with part.watched(lambda node, x: fused.setdefault(node, x)):
        part(features())
    assert sorted(arrived) == sorted(part.edges)
    for node in part.graph.nodes:  # what a node fuses is what its edges bring, of its size and width
        brought = [arrived[f"{source}->{node.name}"] for source in node.inputs]
        torch.testing.assert_close(fused[node.name], torch.stack(brought).sum(0))


def test_a_hook_sees_the_whole_edge_and_may_change_it() -> None:
    part, inputs = neck(attention=LATERAL), features()
    before = part(inputs)
    seen: list[Tensor] = []
    hook = part.edges["c3->t3"].register_forward_hook(lambda _edge, _given, y: seen.append(y))
    assert torch.equal(part(inputs)[0], before[0])
    hook.remove()
    kept, part.edges["c3->t3"].insert.attention = part.edges["c3->t3"].insert.attention, nn.Threshold(1e9, 3.0)
    hook = part.edges["c3->t3"].register_forward_hook(lambda _edge, _given, y: seen.append(y) or 2 * y)
    part(inputs)
    assert not seen[0].eq(3).any()
    assert seen[1].eq(3).all(), "attention stands on the edge"
    hook.remove()
    part.edges["c3->t3"].insert.attention = kept
    assert torch.equal(part(inputs)[0], before[0])


class Zero(nn.Module):
    """An edge of someone else's."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return x.new_zeros(len(x), 8, *size)


@pytest.mark.parametrize("up", ["nearest", "sapa"])
def test_an_edge_may_be_replaced(up: str) -> None:
    part, inputs = neck(up=UP[up]), features()
    with part.switched_off("t5", "t4"):
        off = part(inputs)
    part.edges["t5->t4"] = Zero()
    for a, b in zip(part(inputs), off, strict=True):
        assert torch.equal(a, b)


def test_a_switched_off_edge_carries_nothing() -> None:
    part, inputs = neck(), features()
    before = part(inputs)
    with part.switched_off("t5", "t4"), part.switched_off("c3", "t3"):
        off = part(inputs)
    assert torch.equal(before[2], off[2])  # P5 does not depend on it
    assert not torch.equal(before[1], off[1])
    assert torch.equal(part(inputs)[1], before[1])
    with pytest.raises(KeyError, match="no edge c3->t5; it has c5->t5, c4->t4, t5->t4"), part.switched_off("c3", "t5"):
        pass


def test_a_checkpoint_from_before_attention_moved_onto_the_edge_loads() -> None:
    part = neck(attention=LATERAL)
    wanted = {name: value + 1 for name, value in part.state_dict().items()}
    former = {f"model.{GraphNeck.former_name(name)}": value for name, value in wanted.items()}
    assert sum(name.startswith("model.inserts.lateral_c4->t4.attention.") for name in former) > 2
    names = list(former)
    load_weights(
        nn.ModuleDict({"model": part}), Checkpoint(Path("x"), {}, Categories((1,), ("a",)), former, 0, "", False)
    )
    assert list(former) == names, "the checkpoint is the caller's"
    assert all(torch.equal(value, wanted[name]) for name, value in part.state_dict().items())


def test_attention_on_an_edge_starts_as_before_it_moved_there() -> None:
    def of_before() -> nn.Module:
        place = "c3->t3"
        inserts = {f"lateral_{place}": make_insert(LATERAL, "lateral", place, 3, 8)}
        return nn.ModuleDict({"inserts": nn.ModuleDict(inserts)})

    now = initialised(lambda: neck(attention=LATERAL), 5, "neck").state_dict()
    before = initialised(of_before, 5, "neck").state_dict()
    for name, value in before.items():
        assert torch.equal(now[name.replace("inserts.lateral_c3->t3.", "edges.c3->t3.insert.")], value), name


def test_only_a_resampler_that_convolves_has_a_norm_behind_it() -> None:
    """Means of pixels have the scale of the pixels; a norm would make dysample another neck than nearest."""
    normed = {name for name, up in UP.items() if neck(up=up, norm="batch").edges["t5->t4"].norm is not None}
    assert normed == {"deconv"}
