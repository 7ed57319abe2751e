"""The topology as data: what is refused, and how graphs classify themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from detfuse.fusion.graph import FusionGraph, GraphError, Node
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

LEVELS = (3, 4, 5)


@pytest.mark.parametrize(
    ("topology", "kind"),
    [
        (unfused, "late"),
        (partial(unfused, project=False, extra_levels=0), "late"),
        (early, "early"),
        (early_pyramid, "early"),
        (hypernet, "early"),
        (fpn, "pyramid"),
        (unet, "pyramid"),
        (pafpn, "pyramid"),
        (partial(pafpn, variant="paper"), "pyramid"),
        (bifpn, "pyramid"),
        (fcn_skip, "pyramid"),
        (dense_pyramid, "pyramid"),
    ],
)
def test_graphs_classify_themselves(topology: Any, kind: str) -> None:
    assert topology(LEVELS).kind == kind


def test_a_single_backbone_level_is_late_not_early() -> None:
    assert early((4,)).kind == "late"


def test_early_with_a_bypass_is_a_pyramid() -> None:
    fused = {"name": "f4", "level": 4, "inputs": ["c3", "c4", "c5"]}
    through = [{"name": "p3", "level": 3, "inputs": ["f4"]}, {"name": "p5", "level": 5, "inputs": ["f4"]}]
    around = [{"name": "p3", "level": 3, "inputs": ["f4", "c3"]}, through[1]]
    assert FusionGraph.from_nodes(LEVELS, [fused, *through], ["p3", "p5"]).kind == "early"
    assert FusionGraph.from_nodes(LEVELS, [fused, *around], ["p3", "p5"]).kind == "pyramid"


@pytest.mark.parametrize(
    "topology", [unfused, early_pyramid, hypernet, fpn, fcn_skip, dense_pyramid, unet, pafpn, bifpn]
)
def test_all_pyramids_offer_the_same_levels(topology: Any) -> None:
    assert topology(LEVELS).out_levels == (3, 4, 5, 6, 7)


def test_pafpn_variants_differ_in_what_goes_up() -> None:
    assert ("n4", "n5") in pafpn(LEVELS).edges
    assert ("p4", "n5") in pafpn(LEVELS, variant="paper").edges


def test_bifpn_has_no_single_input_node_and_an_extra_edge_on_middle_levels() -> None:
    graph = bifpn(LEVELS, repeats=1)
    inputs = {node.name: node.inputs for node in graph.nodes}
    assert [name for name, given in inputs.items() if len(given) == 1] == ["x6", "x7"]
    assert inputs["p4"] == ("c4", "d1_4", "p3")
    assert inputs["p7"] == ("x7", "p6")


def test_a_node_is_guided_by_its_first_input_of_its_own_level() -> None:
    graph = bifpn(LEVELS, repeats=1)
    guides = {node.name: graph.guide(node) for node in graph.nodes}
    assert guides["p4"] == "c4"
    assert guides["p7"] == "x7"
    assert guides["x6"] is None


def node(name: str, level: int, *inputs: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "level": level, "inputs": list(inputs), **more}


P3 = node("p3", 3, "c3", "c4", "c5")


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([node("p3", 3, "c3", "c4", "t5")], ["p3"], "takes 't5', but before it there are only c3, c4, c5"),
        ([node("c4", 4, "c3", "c4", "c5")], ["c4"], "node name 'c4' is not allowed"),
        ([node("p 3", 3, "c3", "c4", "c5")], ["p 3"], "node name 'p 3' is not allowed"),
        ([P3, P3], ["p3"], "two maps are called 'p3'"),
        ([node("p3", 3)], ["p3"], "has no inputs"),
        ([node("p3", 3, "c3", "c3")], ["p3"], "takes an input twice"),
        ([P3], [], "there are no outputs"),
        ([P3], ["p4"], "output 'p4' is no node; there are p3"),
        ([P3, node("p4", 4, "p3")], ["p4", "p3"], "finest first"),
        ([P3, node("p4", 4, "p3")], ["p3"], "no output uses p4"),
        ([node("p3", 3, "c3", "c4")], ["p3"], "no output uses c5.*backbone.levels"),
        ([node("p3", 3, "c3", colour="red")], ["p3"], "node 'p3': unknown key 'colour'"),
        ([{"name": "p3", "level": 3}], ["p3"], "'inputs' is missing"),
        ([node("p3", "three", "c3")], ["p3"], "level must be an integer"),  # type: ignore[arg-type]
        ([{"name": "p3", "level": 3, "inputs": "c3"}], ["p3"], "inputs must be a list"),
        ([{"name": "p3", "level": 3, "inputs": 3}], ["p3"], "inputs must be a list of names, got 3"),
        ([{"name": 3, "level": 3, "inputs": ["c3"]}], ["p3"], "name must be text, got 3"),
        ([{"name": "p3", "level": 3, "inputs": ["c3"], "block": 3}], ["p3"], "block must be a name or null, got 3"),
        ([{"name": "p3", "level": 3, "inputs": ["c3"], "project": "no"}], ["p3"], "project must be true or false"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_reason(nodes: Any, outputs: list[str], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        FusionGraph.from_nodes(LEVELS, nodes, outputs)


def test_all_problems_are_told_together() -> None:
    nodes = [node("p3", 3, "c3", "t9"), node("p4", 4)]
    with pytest.raises(GraphError, match=r"t9.*no inputs.*p9"):
        FusionGraph.from_nodes(LEVELS, nodes, ["p3", "p4", "p9"])


def test_nodes_compare_and_hash_as_data() -> None:
    assert Node("p3", 3, ("c3",)) == Node("p3", 3, ("c3",))
    assert len({fpn(LEVELS), fpn(LEVELS), pafpn(LEVELS)}) == 2
