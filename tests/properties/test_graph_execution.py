"""Any graph, whatever is drawn, against the walk over its nodes that its definition says: pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from hostile import changed
from hypothesis import given
from hypothesis import strategies as st

from detfuse.fusion.graph import FusionGraph, GraphError
from detfuse.fusion.operators import OPERATORS
from detfuse.fusion.resample import Nearest, Subsample
from detfuse.necks.graph_neck import GraphNeck
from detfuse.structures import FeatureSpec

Map = list[list[int]]
_FUSE = {"add": sum, "max": max}


@st.composite
def _graphs(draw: st.DrawFn) -> tuple[tuple[int, ...], list[dict[str, Any]], list[str]]:
    """Backbone levels, nodes in which every map is used, and outputs."""
    levels = draw(st.sampled_from([(3,), (3, 4), (4, 5), (3, 4, 5), (3, 5)]))
    level_of = {f"c{level}": level for level in levels}
    nodes: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 5))):
        names = list(level_of)
        inputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        level = draw(st.integers(3, 6))
        nodes.append({"name": f"n{number}", "level": level, "inputs": inputs, "project": False})
        level_of[f"n{number}"] = level
    # one last node on top takes what nobody has used
    used = {name for node in nodes for name in node["inputs"]}
    top = {"name": "top", "level": draw(st.integers(3, 7)), "inputs": [n for n in level_of if n not in used]}
    nodes.append({**top, "project": False})
    inner = draw(st.lists(st.sampled_from([node["name"] for node in nodes]), unique=True))
    outputs = {node["level"]: node["name"] for node in nodes if node["name"] in inner} | {top["level"]: "top"}
    return levels, nodes, [outputs[level] for level in sorted(outputs)]


def _resized(x: Map, height: int, width: int, steps: int) -> Map:
    """Nearest: of the pixels that lie on every ``2**-steps``-th place, if the map comes from a finer level."""
    if steps < 0:
        x = [row[:: 2**-steps] for row in x[:: 2**-steps]]
    high, wide = len(x), len(x[0])
    return [[x[i * high // height][j * wide // width] for j in range(width)] for i in range(height)]


@given(_graphs(), st.sampled_from([(1, 1), (5, 3), (8, 9), (16, 2)]), st.sampled_from(["add", "max"]))
def test_every_node_makes_what_the_graph_says(graph: Any, finest: tuple[int, int], operator: str) -> None:
    levels, nodes, outputs = graph
    sizes = {}
    for level in levels:  # as backbones halve, rounded up
        sizes[level] = tuple(-(-side // 2 ** (level - levels[0])) for side in finest)
    generator = torch.Generator().manual_seed(7)
    features = [torch.randint(-9, 9, (1, 1, *sizes[level]), generator=generator).float() for level in levels]
    maps: dict[str, Map] = {f"c{level}": x[0, 0].int().tolist() for level, x in zip(levels, features, strict=True)}
    level_of = {f"c{level}": level for level in levels} | {node["name"]: node["level"] for node in nodes}
    for node in nodes:
        level = node["level"]
        if level not in sizes:
            near = min(sizes, key=lambda known: abs(known - level))
            factor = 2 ** abs(level - near)
            sizes[level] = tuple(side * factor if near > level else -(-side // factor) for side in sizes[near])
        height, width = sizes[level]
        arriving = [
            maps[name] if level_of[name] == level else _resized(maps[name], height, width, level_of[name] - level)
            for name in node["inputs"]
        ]
        fuse = _FUSE[operator] if len(arriving) > 1 else sum
        maps[node["name"]] = [[fuse([x[i][j] for x in arriving]) for j in range(width)] for i in range(height)]
    spec = FeatureSpec((1,) * len(levels), tuple(2**level for level in levels))
    neck = GraphNeck(spec, OPERATORS[operator], Nearest, Subsample, nodes=nodes, outputs=outputs, out_channels=1)
    assert [x[0, 0].tolist() for x in neck(features)] == [maps[name] for name in outputs]


def _paths(nodes: Sequence[dict[str, Any]], name: str) -> list[list[str]]:
    """Every path from a map back to the backbone."""
    inputs = {node["name"]: node["inputs"] for node in nodes}
    if name not in inputs:
        return [[name]]
    return [[name, *path] for source in inputs[name] for path in _paths(nodes, source)]


@given(_graphs())
def test_how_a_graph_fuses(graph: Any) -> None:
    levels, nodes, outputs = graph
    made = FusionGraph.from_nodes(levels, nodes, outputs)
    paths = {name: _paths(nodes, name) for name in made.level_of}
    assert made.sources == {name: {path[-1] for path in found} for name, found in paths.items()}
    all_paths = [path for name in outputs for path in paths[name]]
    ends = {path[-1] for path in all_paths}
    early = len(ends) > 1 and any(
        made.sources[node["name"]] == ends and all(node["name"] in path for path in all_paths) for node in nodes
    )
    late = all(len(made.sources[name]) == 1 for name in outputs)
    assert made.kind == ("late" if late else "early" if early else "pyramid")
    assert len(str(made).splitlines()) == len(nodes) + 1


_SOUND = {
    "levels": [3, 4],
    "nodes": [
        {"name": "t4", "level": 4, "inputs": ["c4"]},
        {"name": "t3", "level": 3, "inputs": ["c3", "t4"], "operator": "add", "up": "nearest", "project": False},
        {"name": "p3", "level": 3, "inputs": ["t3"], "block": "conv3"},
    ],
    "outputs": ["p3", "t4"],
}


@given(changed(_SOUND))
def test_whatever_is_written_as_nodes(content: Any) -> None:
    nodes, outputs = content.get("nodes"), content.get("outputs")
    lists = isinstance(nodes, list) and isinstance(outputs, list)  # the signature sees to it
    if not lists or not all(isinstance(node, dict) for node in nodes) or not all(isinstance(o, str) for o in outputs):
        return
    try:
        made = FusionGraph.from_nodes((3, 4), nodes, outputs)
    except GraphError:
        return
    assert all(a < b for a, b in pairwise(made.out_levels))
    assert set(made.sources[made.outputs[0]]) <= {"c3", "c4"}
    assert len({node.name for node in made.nodes}) == len(made.nodes)
