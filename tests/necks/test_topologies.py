"""Topologies against their definitions, written out with plain functions and the neck's own weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detfuse.fusion.graph import GraphError
from detfuse.fusion.operators import Add, Concat
from detfuse.fusion.resample import UP, Deconv, MaxPool, Nearest, StridedConv
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.topologies import dense_pyramid, early_pyramid, fcn_skip, fpn, hypernet
from detfuse.structures import FeatureSpec

LEVELS = (3, 4, 5)
SPEC = FeatureSpec((4, 6, 10), (8, 16, 32))
SIZES = ((16, 24), (8, 12), (4, 6))


def features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, *size, generator=generator) for c, size in zip(SPEC.channels, SIZES, strict=True)]


def neck(topology: Any, operator: Any, up: Any, down: Any = StridedConv) -> GraphNeck:
    torch.manual_seed(0)
    return GraphNeck(SPEC, operator, up, down, topology=topology, out_channels=8)


def laterals(part: GraphNeck, *nodes: str) -> list[Tensor]:
    """C3, C4 and C5, projected on their way to three nodes."""
    edges = [part.edges[f"c{level}->{node}"] for level, node in zip(LEVELS, nodes, strict=True)]
    return [edge.project(x) for edge, x in zip(edges, features(), strict=True)]  # type: ignore[operator]


def mixed(part: GraphNeck, node: str, *maps: Tensor) -> Tensor:
    """The concatenation of maps and its 1x1 convolution."""
    mix = part.operators[node].mix
    assert isinstance(mix, nn.Conv2d)
    return F.conv2d(torch.cat(maps, 1), mix.weight, mix.bias)


def test_fcn_skip_starts_as_sums_of_bilinear_maps() -> None:
    part = neck(partial(fcn_skip, extra_levels=0), Add, Deconv)
    c3, c4, c5 = laterals(part, "p3", "p4", "p5")
    p4 = c4 + F.interpolate(c5, scale_factor=2, mode="bilinear")
    p3 = c3 + F.interpolate(p4, scale_factor=2, mode="bilinear")
    for found, expected, border in zip(part(features()), (p3, p4, c5), (3, 1, 0), strict=True):
        inner = [slice(border, size - border) for size in found.shape[-2:]]  # beyond the map a deconvolution sees zeros
        torch.testing.assert_close(found[..., *inner], expected[..., *inner])
    assert not part.blocks


def test_fcn_skip_learns_how_to_up_sample() -> None:
    part = neck(fcn_skip, Add, Deconv)
    torch.stack([x.square().mean() for x in part(features())]).sum().backward()
    learnt = [name for name, weight in part.named_parameters() if "resample" in name and weight.grad is not None]
    assert {name.partition(".resample")[0] for name in learnt} >= {"edges.p5->p4", "edges.p4->p3"}


def test_fcn_skip_with_a_block_is_fpn() -> None:
    assert fcn_skip(LEVELS, block="conv3") == fpn(LEVELS)


def test_hypernet_pools_the_fine_map_deconvolves_the_coarse_one_and_normalises_all() -> None:
    part = neck(partial(hypernet, single=True), Concat, Deconv, MaxPool)
    c3, c4, c5 = laterals(part, "s3", "s4", "s5")
    deconv = part.edges["c5->s5"].resample.stages[0]  # type: ignore[index, union-attr]
    sampled = {
        "s3": F.max_pool2d(c3, 3, 2, padding=1),
        "s4": c4,
        "s5": F.conv_transpose2d(c5, deconv.weight, deconv.bias, stride=2, padding=1),
    }
    convolved = [part.blocks[name](x) for name, x in sampled.items()]
    normalised = [x / x.square().mean(1, keepdim=True).sqrt() for x in convolved]
    (found,) = part(features())
    torch.testing.assert_close(found, part.blocks["p4"](mixed(part, "f4", *normalised)))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_hypernet_fuses_does_not_depend_on_the_scale_of_a_level(level: int) -> None:
    part = neck(hypernet, Concat, Deconv, MaxPool)
    scaled = features()
    scaled[level] *= 1000
    for found, expected in zip(part(scaled), part(features()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_hypernet_regenerates_the_levels_of_an_fpn_wherever_its_maps_meet() -> None:
    for level, outputs in (
        (None, (3, 4, 5, 6, 7)),
        (3, (3, 4, 5, 6, 7)),
        (5, (3, 4, 5, 6, 7)),
        (2, (2, 3, 4, 5, 6, 7)),
    ):
        graph = hypernet(LEVELS, level=level)
        assert graph.out_levels == outputs
        assert graph.kind == "early"
        assert hypernet(LEVELS, level=level, single=True).out_levels == (level or 4,)
    assert hypernet((3, 4), single=True).out_levels == (3,)
    # from the finest level on both make the same of what is fused
    assert hypernet(LEVELS, level=3).nodes[-4:] == early_pyramid(LEVELS).nodes[-4:]


def test_a_resampler_that_looks_at_the_target_level_finds_none_in_hypernet() -> None:
    with pytest.raises(GraphError, match=r"node 's5' \(inputs c5\): SAPA is guided by a map of the node's own level 4"):
        neck(hypernet, Concat, UP["sapa"], MaxPool)


def test_every_node_of_a_dense_pyramid_sees_all_coarser_ones() -> None:
    part = neck(partial(dense_pyramid, extra_levels=0), Concat, Nearest)
    c3, c4, c5 = laterals(part, "p3", "p4", "p5")
    p5 = part.blocks["p5"](c5)
    p4 = part.blocks["p4"](mixed(part, "p4", c4, F.interpolate(p5, scale_factor=2)))
    above = [F.interpolate(p4, scale_factor=2), F.interpolate(p5, scale_factor=4)]
    p3 = part.blocks["p3"](mixed(part, "p3", c3, *above))
    for found, expected in zip(part(features()), (p3, p4, p5), strict=True):
        torch.testing.assert_close(found, expected)
    four = dense_pyramid((2, 3, 4, 5), extra_levels=0)
    assert {node.name: node.inputs for node in four.nodes}["p2"] == ("c2", "p3", "p4", "p5")
