"""The executor: any topology with any operator and any resampler."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detfuse.attention.inserts import AttentionChoice
from detfuse.fusion.graph import GraphError
from detfuse.fusion.operators import OPERATORS, Add, Concat, Gated
from detfuse.fusion.resample import DOWN, UP, Nearest, StridedConv
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
from detfuse.structures import FeatureSpec

SPEC = FeatureSpec((4, 6, 10), (8, 16, 32))
TOPOLOGIES: dict[str, Any] = {
    f.__name__: f for f in (unfused, early, early_pyramid, hypernet, fpn, fcn_skip, dense_pyramid, unet, pafpn)
}
TOPOLOGIES["bifpn"] = partial(bifpn, repeats=1)


def features(size: tuple[int, int] = (17, 22), spec: FeatureSpec = SPEC, *, floor: bool = False) -> list[Tensor]:
    torch.manual_seed(0)
    step = spec.strides[0]
    shapes = [[s * step // k if floor else -(-s * step // k) for s in size] for k in spec.strides]
    return [torch.randn(2, c, *shape) for c, shape in zip(spec.channels, shapes, strict=True)]


def neck(
    topology: Any = fpn, operator: Any = Add, up: Any = Nearest, down: Any = StridedConv, **more: Any
) -> GraphNeck:
    torch.manual_seed(0)
    return GraphNeck(SPEC, operator, up, down, topology=topology, **{"out_channels": 8, **more})


def check(part: nn.Module, out_spec: FeatureSpec, inputs: list[Tensor]) -> list[Tensor]:
    """The neck contract: shapes as promised, every parameter learns, inputs untouched."""
    copies = [x.clone() for x in inputs]
    outputs: list[Tensor] = part(inputs)
    height, width = inputs[0].shape[-2:]
    for x, channels, stride in zip(outputs, out_spec.channels, out_spec.strides, strict=True):
        factor = stride // 8
        assert x.shape == (2, channels, -(-height // factor), -(-width // factor))
    torch.stack([x.square().mean() for x in outputs]).sum().backward()
    without = [name for name, p in part.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without, f"no finite gradient: {without}"
    assert all(torch.equal(x, y) for x, y in zip(inputs, copies, strict=True)), "inputs were mutated"
    return outputs


RESAMPLERS = [*((up, "strided_conv") for up in UP), *(("nearest", down) for down in DOWN if down != "strided_conv")]
assert len(RESAMPLERS) <= len(OPERATORS)  # so that the square below has every pair


def square() -> Iterator[tuple[str, str, str, str]]:
    """Every topology with every operator and with every resampler, and every operator with every resampler."""
    for (row, topology), (column, operator) in product(enumerate(TOPOLOGIES), enumerate(OPERATORS)):
        up, down = RESAMPLERS[(row + column) % len(RESAMPLERS)]
        unguided = topology == "hypernet" and up == "sapa"  # it meets where no map is that could guide
        yield topology, operator, "nearest" if unguided else up, down


@pytest.mark.parametrize(("topology", "operator", "up", "down"), list(square()))
def test_any_topology_with_any_operator_and_any_resampler(topology: str, operator: str, up: str, down: str) -> None:
    part = neck(TOPOLOGIES[topology], OPERATORS[operator], UP[up], DOWN[down])
    check(part, part.out_spec, features())


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_inner_width_changes_the_cost_but_not_what_the_head_sees(topology: str) -> None:
    narrow, wide = neck(TOPOLOGIES[topology], width=4), neck(TOPOLOGIES[topology], width=16)
    assert narrow.out_spec == wide.out_spec == neck(TOPOLOGIES[topology]).out_spec
    count = [sum(p.numel() for p in n.parameters()) for n in (narrow, wide)]
    assert count[0] < count[1]
    check(narrow, narrow.out_spec, features())


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_norms_and_activations(topology: str, norm: Any) -> None:
    part = neck(TOPOLOGIES[topology], norm=norm, activation="silu")
    check(part, part.out_spec, features((32, 32)))


def test_backbones_that_round_sizes_down() -> None:
    pairs = [("deconv", "max_pool"), ("nearest", "strided_conv"), ("dysample", "area"), ("sapa", "area")]
    guided = [topology for topology in TOPOLOGIES.values() if topology is not hypernet]
    for topology, (up, down) in [*product(guided, pairs), *((hypernet, pair) for pair in pairs[:3])]:
        outputs = neck(topology, up=UP[up], down=DOWN[down])(features((13, 11), floor=True))
        assert outputs[0].shape[-2:] == (13, 11)


def test_unfused_without_projection_hands_the_maps_on() -> None:
    part = neck(partial(unfused, project=False, extra_levels=1))
    inputs = features()
    outputs = part(inputs)
    assert part.out_spec == FeatureSpec((4, 6, 10, 8), (8, 16, 32, 64))
    assert all(torch.equal(x, y) for x, y in zip(inputs, outputs[:3], strict=True))


def test_unfused_takes_more_blocks_and_stays_late() -> None:
    deep = neck(partial(unfused, depth=3, extra_levels=0))
    assert deep.graph.kind == "late"
    assert deep.out_spec == neck(partial(unfused, extra_levels=0)).out_spec
    assert len(deep.blocks) == 3 * len(neck(partial(unfused, extra_levels=0)).blocks)
    with pytest.raises(ValueError, match="only one without projection; got depth 2"):
        neck(partial(unfused, project=False, depth=2))


@pytest.mark.parametrize("topology", [*TOPOLOGIES.values(), bifpn])
def test_every_topology_takes_another_block(topology: Any) -> None:
    blocks = {node.block for node in topology((3, 4, 5), block="separable").nodes}
    assert "separable" in blocks
    assert blocks <= {"separable", "relu", "l2_norm", None}


def test_unfused_is_fpn_without_its_top_down_edges() -> None:
    late, pyramid = neck(unfused), neck(fpn)
    names = {f"edges.c{i}->p{i}.": f"edges.c{i}->t{i}." for i in (3, 4, 5)}
    state = {
        next((key.replace(b, a) for a, b in names.items() if b in key), key): value
        for key, value in pyramid.state_dict().items()
    }
    late.load_state_dict(state)  # the same parameters, not one more
    inputs = features()
    with pyramid.switched_off("t5", "t4"), pyramid.switched_off("t4", "t3"):
        expected = pyramid(inputs)
    for a, b in zip(late(inputs), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_graph_of_nodes_with_pins() -> None:
    nodes = [
        {"name": "f4", "level": 4, "inputs": ["c3", "c4", "c5"], "operator": "max", "up": "bilinear", "down": "area"},
        {"name": "p3", "level": 3, "inputs": ["f4"], "block": "conv3"},
        {"name": "p6", "level": 6, "inputs": ["f4"]},
    ]
    part = neck(None, Concat, nodes=nodes, outputs=["p3", "p6"])
    assert type(part.operators["f4"]).__name__ == "Max"
    assert part.graph.kind == "early"
    check(part, part.out_spec, features())


def test_concat_without_projection_takes_the_maps_as_they_are() -> None:
    nodes = [{"name": "p4", "level": 4, "inputs": ["c3", "c4", "c5"], "project": False, "down": "max_pool"}]
    part = neck(None, Concat, nodes=nodes, outputs=["p4"])
    assert part.operators["p4"].mix.in_channels == sum(SPEC.channels)
    assert part(features())[0].shape == (2, 8, 9, 11)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"nodes": [{"name": "p3", "level": 3, "inputs": ["c3", "c4", "c5"], "block": "conv9"}]}, "no block 'conv9'"),
        ({"nodes": [{"name": "p3", "level": 3, "inputs": ["c3", "c4", "c5"], "operator": "sub"}]}, "no operator 'sub'"),
        (
            {"nodes": [{"name": "p3", "level": 3, "inputs": ["c3", "c4", "c5"], "project": False}]},
            r"node 'p3' \(inputs c3, c4, c5\): add needs maps of one width, got \[4, 6, 10\]",
        ),
    ],
)
def test_parts_that_do_not_fit_name_their_node(more: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        neck(None, outputs=["p3"], **more)


def test_a_resampler_of_the_other_direction_is_refused() -> None:
    with pytest.raises(GraphError, match=r"node 't4'.*MaxPool cannot resample up: choose one of nearest, bilinear"):
        neck(up=DOWN["max_pool"])
    with pytest.raises(GraphError, match=r"node 'n4'.*Nearest cannot resample down: choose one of max_pool"):
        neck(pafpn, down=Nearest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1 or None, got 0"),
        ({"width": -4}, "width must be at least 1 or None, got -4"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"out_channels": -4, "width": 8}, "out_channels must be at least 1, got -4"),
        ({"norm_eps": -1.0}, "norm_eps must be at least 0, got -1.0"),
        ({"norm_momentum": 2.0}, "norm_momentum must lie in 0..1"),
        ({"operator": partial(Gated, ratio=0)}, "ratio must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_told_with_what_is_allowed(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neck(fpn, **options)


@pytest.mark.parametrize(
    "topology", [unfused, early_pyramid, hypernet, fpn, fcn_skip, dense_pyramid, unet, pafpn, bifpn]
)
def test_levels_above_the_backbones_cannot_be_fewer_than_none(topology: Any) -> None:
    with pytest.raises(ValueError, match="extra_levels must be at least 0, got -1"):
        topology((3, 4, 5), extra_levels=-1)


def test_topology_and_nodes_exclude_each_other() -> None:
    with pytest.raises(GraphError, match="not both"):
        neck(fpn, nodes=[], outputs=[])
    with pytest.raises(GraphError, match="needs a topology, or nodes"):
        neck(None)


def test_a_factor_multiplies_what_a_node_fused_and_what_depends_on_it() -> None:
    plain, half = neck(pafpn), neck(pafpn, scales={"n4": 0.5})
    half.load_state_dict(plain.state_dict())  # a factor is no weight: any checkpoint of the neck without it fits
    a, b = plain(features()), half(features())
    assert torch.equal(a[0], b[0])
    torch.testing.assert_close(b[1], 0.5 * a[1])  # no norm and no bias between n4 and P4
    assert not torch.allclose(b[2], a[2])
    check(half, half.out_spec, features())


def test_a_factor_stands_before_attention_and_block() -> None:
    seen: dict[str, Tensor] = {}

    def watch(node: str, fused: Tensor) -> Tensor:
        seen[node] = fused
        return torch.zeros_like(fused) if node == "t4" else fused

    class Plus(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    part = neck(scales={"t4": 3.0}, attention={"fused": AttentionChoice(lambda channels: Plus())})
    inputs = features()
    with part.watched(watch):
        watched = part(inputs)
    assert list(seen) == [node.name for node in part.graph.nodes]
    torch.testing.assert_close(seen["t4"], 3 * neck_without(part, inputs, "t4"))
    with part.watched(lambda node, x: -torch.ones_like(x) if node == "t4" else x):
        assert part(inputs)[1].abs().max() == 0  # -1 and the attention's +1, through a block without bias
    assert not torch.equal(part(inputs)[1], watched[1])


def neck_without(part: GraphNeck, inputs: list[Tensor], node: str) -> Tensor:
    """What the node fused, but for its factor."""
    found: dict[str, Tensor] = {}
    factors, part.scales = part.scales, {}
    with part.watched(lambda name, x: found.setdefault(name, x)):
        part(inputs)
    part.scales = factors
    return found[node]


def test_factors_that_cannot_be_are_told_together() -> None:
    wrong = {"c3": 1.0, "q4": 1.0, "p4": 2.0, "t4": 0.0, "t3": float("nan")}
    with pytest.raises(GraphError) as caught:
        neck(scales=wrong)
    assert str(caught.value) == (
        "scales.c3: there is no such node; scales.q4: there is no such node; scales.p4: the node has one input, "
        "nothing is fused there; scales.t4: the factor must be a positive number, got 0.0; scales.t3: the factor must "
        "be a positive number, got nan (the nodes that fuse are t4, t3)"
    )
    for factor in (-1, float("inf"), True, "2"):
        with pytest.raises(GraphError, match=r"scales\.t4: the factor must be a positive number"):
            neck(scales={"t4": factor})
    with pytest.raises(GraphError, match="the nodes that fuse are none"):
        neck(unfused, scales={"p3": 1.0})


def test_factors_compile_without_a_break() -> None:
    part, plain = neck(scales={"t4": 0.4321, "t3": 2}), neck()
    torch._dynamo.reset()
    compiled = torch.compile(part, fullgraph=True, dynamic=True, backend="eager")
    for size in ((16, 24), (17, 22)):
        for a, b, c in zip(compiled(features(size)), part(features(size)), plain(features(size)), strict=True):
            torch.testing.assert_close(a, b)
            assert a.shape == c.shape


def test_sampling_and_guided_resamplers_compile_without_a_break() -> None:
    nodes = [
        {"name": "t4", "level": 4, "inputs": ["c4", "c5"], "up": "dysample"},
        {"name": "p3", "level": 3, "inputs": ["c3", "t4"], "up": "sapa"},
    ]
    part = neck(None, nodes=nodes, outputs=["p3"])
    torch._dynamo.reset()
    compiled = torch.compile(part, fullgraph=True, dynamic=True, backend="eager")
    for size in ((16, 24), (17, 22)):
        torch.testing.assert_close(compiled(features(size)), part(features(size)))
