"""The scale at which a head starts: measured without a trace, told where it differs, made the baseline's."""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from contracts.composing import compose_train, small_batch
from torch import Tensor, nn

from detfuse.ablation.plan.start import Magnitudes, magnitudes, measured, scale_differences, solve_factors
from detfuse.build import build_detector
from detfuse.detector import Detector
from detfuse.fusion.graph import FusionGraph, Node
from detfuse.fusion.operators import OPERATORS
from detfuse.fusion.resample import DOWN, UP
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.topologies import bifpn, fpn, pafpn, unfused
from detfuse.structures import FeatureSpec

BATCH = small_batch()
SSD = (
    *("neck=ssd_extras", "head=ssd", "backbone.levels=[3,4]"),
    *("neck.fc_channels=64", "neck.extra_channels=[64,64]", "neck.extra_strides=[2,2]"),
)
SPEC = FeatureSpec((8, 12, 16), (8, 16, 32))


class Backbone(nn.Module):
    """Three maps of ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.out_spec = SPEC
        self.stages = nn.ModuleList(
            nn.Conv2d(3, channels, stride, stride) for channels, stride in zip(SPEC.channels, SPEC.strides, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        return [stage(images).relu() for stage in self.stages]


class Outputs(NamedTuple):
    """What the head below says: a map per level, no map, a single map."""

    doubled: list[Tensor]
    counts: Tensor
    first: Tensor


class Head(nn.Module):
    """Says the maps again, and draws a random number as dropout does."""

    def forward(self, maps: list[Tensor]) -> Outputs:
        torch.rand(1)
        return Outputs([2 * x for x in maps], torch.tensor(3), maps[0])


def detector(topology: Any = fpn, operator: str = "add", **more: Any) -> Detector:
    """Like a real one, but small; what two of them share starts alike."""
    torch.manual_seed(0)
    backbone, head = Backbone(), Head()
    resample = UP["nearest"], DOWN["strided_conv"]
    neck = GraphNeck(SPEC, OPERATORS[operator], *resample, topology=topology, **{"out_channels": 16, **more})
    for name, parameter in neck.named_parameters():
        if parameter.dim() > 1:
            torch.manual_seed(sum(map(ord, name)))
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return Detector(backbone, neck, head)  # type: ignore[arg-type]  # the head trains nothing


# ---- measuring


def test_every_map_that_is_read_and_every_output_has_its_deviation() -> None:
    part = detector()
    found = measured(part, BATCH)
    with torch.no_grad():
        maps = part.neck(part.backbone(part.normalize(BATCH.images, BATCH.image_sizes)))
    assert list(found) == ["P3", "P4", "P5", "P6", "P7", "doubled", "first"]
    for level, x in zip((3, 4, 5, 6, 7), maps, strict=True):
        assert found[f"P{level}"] == pytest.approx(float(x.std(correction=0)), rel=1e-3)
    everything = torch.cat([x.flatten() for x in maps])
    assert found["doubled"] == pytest.approx(2 * float(everything.std()), rel=1e-3)
    assert found["first"] == found["P3"]


def test_a_mean_starts_lower_than_a_sum_by_the_number_of_maps() -> None:
    node = {"name": "p3", "level": 3, "inputs": ["c3", "c4", "c5"]}
    one = {"topology": None, "nodes": [node], "outputs": ["p3"]}
    total, mean = (measured(detector(operator=name, **one), BATCH) for name in ("add", "mean"))
    assert total["P3"] == pytest.approx(3 * mean["P3"], rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (
            ("neck=bifpn", "head=fcos", "neck.out_channels=16", "neck.topology.repeats=1"),
            "P3 P4 P5 P6 P7 logits distances centerness",
        ),
        (SSD, "P3 P4 P5 P6 logits deltas"),
        (("neck=early", "head=faster_rcnn", "neck.out_channels=16", "head.box_channels=16"), "P3 logits deltas"),
    ],
)
def test_measuring_leaves_no_trace(overrides: tuple[str, ...], names: str) -> None:
    part = build_detector(compose_train("backbone=resnet10t", *overrides), num_classes=3)
    part.backbone.eval()  # type: ignore[attr-defined]  # as frozen stages are
    state = {name: value.clone() for name, value in part.state_dict().items()}
    modes = [module.training for module in part.modules()]
    assert any(name.endswith("running_mean") for name in state)
    generator = torch.get_rng_state()
    found = measured(part, BATCH)
    assert list(found) == names.split()
    assert all(0 < value < math.inf for value in found.values())
    assert all(torch.equal(value, state[name]) for name, value in part.state_dict().items())
    assert [module.training for module in part.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(parameter.grad is not None for parameter in part.parameters())


def test_neither_measuring_nor_solving_moves_the_generator() -> None:
    part = detector()  # its head draws
    generator = torch.get_rng_state()
    first, second = measured(part, BATCH), measured(part, BATCH)
    solve_factors(part, BATCH, magnitudes(part, BATCH))
    assert first == second
    assert torch.equal(torch.get_rng_state(), generator)
    assert part.neck.scales == {}  # type: ignore[attr-defined]  # it is a graph


def test_only_what_differs_noticeably_is_told_in_a_line() -> None:
    baseline = {"P3": 1.56, "P4": 1.2, "P5": 0.8, "logits": 0.05, "only": 1.0}
    arm = {"P3": 0.38, "P4": 1.1, "P5": 0.5, "logits": 0.05, "P6": 1.0}
    assert scale_differences(baseline, baseline) == {}
    assert scale_differences(baseline, arm) == {"scale at the start of P3/P5": ("1.56/0.8", "0.38/0.5")}
    other = {**baseline, "logits": 0.08}
    assert scale_differences(baseline, other) == {"scale at the start of logits": ("0.05", "0.08")}
    assert scale_differences({"P3": 1.0, "P4": 0.0}, {"P3": math.nan, "P4": 0.0}) == {
        "scale at the start of P3": ("1", "not finite")
    }


# ---- the factors


def fused(part: Detector) -> dict[str, float]:
    """Node with several inputs -> how large what it fused is."""
    assert isinstance(part.neck, GraphNeck)
    several = {node.name for node in part.neck.graph.nodes if len(node.inputs) > 1}
    return {name: value for (name, _), value in magnitudes(part, BATCH).nodes.items() if name in several}


@pytest.mark.parametrize(("topology", "operator"), list(product((fpn, pafpn), OPERATORS)))
def test_what_is_fused_becomes_as_large_as_the_baselines(topology: Any, operator: str) -> None:
    baseline, arm = detector(topology, "add"), detector(topology, operator)
    factors = solve_factors(arm, BATCH, magnitudes(baseline, BATCH))
    assert factors.left == ()
    assert bool(factors.by_node) == (operator != "add")
    equal = detector(topology, operator, scales=factors.by_node)
    assert fused(equal) == pytest.approx(fused(baseline), rel=0.01)
    assert operator == "add" or fused(arm) != pytest.approx(fused(baseline), rel=0.05)
    # a second look finds nothing to change: the factors are those of the maps as they then are
    again = solve_factors(equal, BATCH, magnitudes(baseline, BATCH)).by_node
    assert again == pytest.approx(factors.by_node, rel=1e-3)


@pytest.mark.parametrize("operator", ["mean", "max", "concat", "complex"])
def test_the_head_then_starts_at_the_baselines_scale(operator: str) -> None:
    baseline, arm = detector(pafpn, width=64, out_channels=64), detector(pafpn, operator, width=64, out_channels=64)
    before = measured(arm, BATCH)
    factors = solve_factors(arm, BATCH, magnitudes(baseline, BATCH))
    equal = measured(detector(pafpn, operator, width=64, out_channels=64, scales=factors.by_node), BATCH)
    should = measured(baseline, BATCH)
    assert [equal[name] for name in ("P3", "P4", "P5")] == pytest.approx([should[f"P{i}"] for i in (3, 4, 5)], rel=0.25)
    assert operator == "complex" or before["P4"] < 0.75 * should["P4"]


def test_a_node_is_like_the_node_of_its_name_else_like_the_map_of_its_level() -> None:
    def graph(levels: tuple[int, ...]) -> FusionGraph:
        nodes = [Node("t4", 4, ("c4", "c5")), Node("x3", 3, ("c3", "t4")), Node("x2", 2, ("c3", "t4"))]
        ends = [Node("p2", 2, ("x2",)), Node("p3", 3, ("x3",))]
        return FusionGraph(levels, (*nodes, *ends), ("p2", "p3"))

    seen = magnitudes(detector(fpn), BATCH)
    factors = solve_factors(detector(graph, "mean"), BATCH, seen)
    assert list(factors.by_node) == ["t4", "x3"]
    assert factors.left == ("x2",)  # the baseline has neither such a node nor such a level
    made = fused(detector(graph, "mean", scales=factors.by_node))
    assert made["t4"] == pytest.approx(seen.nodes["t4", 4], rel=0.01)
    assert made["x3"] == pytest.approx(seen.maps[3], rel=0.01)


def test_the_baseline_may_fuse_nothing_and_so_may_an_arm() -> None:
    late, pyramid = detector(unfused), detector(fpn)
    seen = magnitudes(late, BATCH)
    made = fused(detector(fpn, scales=solve_factors(pyramid, BATCH, seen).by_node))
    assert made == pytest.approx({"t4": seen.maps[4], "t3": seen.maps[3]}, rel=0.01)
    none = solve_factors(late, BATCH, magnitudes(pyramid, BATCH))
    assert (none.by_node, none.left) == ({}, ())


def test_factors_of_an_arms_own_are_replaced() -> None:
    baseline, own = detector(fpn), detector(fpn, "mean", scales={"t4": 8.0, "t3": 0.1})
    found = solve_factors(own, BATCH, magnitudes(baseline, BATCH)).by_node
    assert found == pytest.approx({"t4": 2.0, "t3": 2.0}, rel=1e-3)
    same = solve_factors(detector(fpn, scales={"t4": 3.0}), BATCH, magnitudes(baseline, BATCH)).by_node
    assert same == {"t4": 1.0}  # it takes an override to undo it


def test_maps_that_no_factor_can_bring_there_are_left_and_other_necks_refused() -> None:
    silent = Magnitudes({("t4", 4): 0.0}, {3: math.inf})
    assert solve_factors(detector(fpn), BATCH, silent).left == ("t4", "t3")
    part = build_detector(compose_train(*SSD), num_classes=3)
    with pytest.raises(ValueError, match="the neck SSDExtras is no fusion graph"):
        solve_factors(part, BATCH, silent)
    assert magnitudes(part, BATCH).nodes == {}


def test_batch_norms_are_measured_as_training_uses_them() -> None:
    part = detector(partial(bifpn, repeats=1), "fast_normalized", norm="batch")
    assert isinstance(part.neck, GraphNeck)
    for module in part.neck.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1e6)  # type: ignore[union-attr]  # it has statistics
    assert measured(part, BATCH)["P3"] > 0.1
