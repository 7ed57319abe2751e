"""Drawings show every map and every edge, and are well-formed."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from detfuse.attention.inserts import Place
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
from detfuse.visualize.graph import mermaid, svg

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    "topology", [unfused, early, early_pyramid, hypernet, fpn, fcn_skip, dense_pyramid, unet, pafpn, bifpn]
)
def test_drawings_show_every_map_and_edge(topology: Any) -> None:
    graph = topology((3, 4, 5))
    root = ElementTree.fromstring(svg(graph, "a < b & c"))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert all(name in texts for name in graph.level_of)
    assert f"a < b & c · {graph.kind} fusion" in texts
    titles = {title.text for title in root.iter(f"{SVG}title")}
    assert titles >= {f"{source} to {node}" for source, node in graph.edges}
    boxes = [(r.get("x"), r.get("y")) for r in root.iter(f"{SVG}rect") if r.get("rx")]
    assert len(boxes) == len(set(boxes)) == len(graph.level_of), "two boxes on one place"

    assert not hidden(root), "an edge runs behind a box and seems to come from it"

    lines = mermaid(graph).splitlines()
    assert lines[0] == "flowchart LR"
    assert all(f"  {source} --> {node}" in lines for source, node in graph.edges)


def hidden(root: ElementTree.Element) -> list[str]:
    """The edges of which a part lies inside a box."""
    sides = [[float(r.get(key, 0)) for key in ("x", "y", "width", "height")] for r in root.iter(f"{SVG}rect")]
    boxes = [(x, x + width, y, y + height) for x, y, width, height in sides if height == 34]
    found = []
    for path in root.iter(f"{SVG}path"):
        if title := path.findtext(f"{SVG}title"):
            a, b, c, d = (complex(*map(float, point)) for point in re.findall(r"([\d.]+) ([\d.]+)", path.get("d", "")))
            steps = (i / 50 for i in range(51))
            points = [(1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d for t in steps]
            if any(x < p.real < right and y < p.imag < low for p in points for x, right, y, low in boxes):
                found.append(title)
    return found


def test_drawings_show_where_attention_stands() -> None:
    graph = fpn((3, 4, 5))
    places = [
        ("stage", "c4"),
        ("branch", "c4 block 1"),
        ("branch", "c4 block 2"),
        ("lateral", "c3->t3"),
        ("fused", "t4"),
        ("output", "p3"),
        ("head", "cls_tower.0"),
    ]
    attention = [Place(site, at, "SE") for site, at in places]  # type: ignore[arg-type]  # sites as plain strings
    root = ElementTree.fromstring(svg(graph, "", attention))
    titles = {title.text for title in root.iter(f"{SVG}title")}
    assert titles >= {"SE at stage of c4", "SE at branch of c4", "SE at lateral c3->t3", "SE at fused t4"}
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "SE branch x2" in texts
    assert "in the head's towers: SE x1" in texts
    assert texts.count("SE") == 3
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for rect in root.iter(f"{SVG}rect"):
        if rect.get("ry"):
            assert 0 <= float(rect.get("x", -1)) <= width - float(rect.get("width", 0))
            assert 0 <= float(rect.get("y", -1)) <= height - 13

    lines = mermaid(graph, attention).splitlines()
    assert "  c3 -->|SE lateral| t3" in lines
    assert "    c4[/c4<br/>SE stage<br/>SE branch/]" in lines


def test_what_the_baseline_does_not_have_is_highlighted() -> None:
    graph, baseline = pafpn((3, 4, 5)), fpn((3, 4, 5))

    def added(drawing: str) -> list[str]:
        marked = [e for e in ElementTree.fromstring(drawing).iter() if e.get("class") == "added"]
        return [e.tag.rpartition("}")[2] for e in marked]

    edges = [edge for edge in graph.edges if edge not in baseline.edges]
    nodes = [name for name in graph.level_of if name not in baseline.level_of]
    assert edges
    assert nodes
    assert added(svg(graph, baseline=baseline)) == ["path"] * len(edges) + ["rect"] * len(nodes)
    assert added(svg(graph, baseline=graph)) == []
    assert "not in the baseline" not in svg(graph)


def test_drawings_show_the_factor_on_what_a_node_fuses() -> None:
    graph = fpn((3, 4, 5))
    scales = {"t4": 0.4321, "t3": 2.0}
    plain = ElementTree.fromstring(svg(graph))
    root = ElementTree.fromstring(svg(graph, scales=scales))
    texts = {text.text: text for text in root.iter(f"{SVG}text")}
    assert {"× 0.432", "× 2"} <= texts.keys()
    assert not any("×" in (text.text or "") for text in plain.iter(f"{SVG}text"))
    box = next(rect for rect in root.iter(f"{SVG}rect") if rect.get("rx") and float(rect.get("y", 0)) > 0)
    assert "what t4 fuses is multiplied by 0.4321" in {title.text for title in root.iter(f"{SVG}title")}
    name = next(text for text in root.iter(f"{SVG}text") if text.text == "t4")
    assert texts["× 0.432"].get("x") == name.get("x"), "under its map"
    assert 0 < float(texts["× 0.432"].get("y", 0)) - float(name.get("y", 0)) < float(box.get("height", 0))
    assert "    t4[t4<br/>× 0.432]" in mermaid(graph, scales=scales).splitlines()
