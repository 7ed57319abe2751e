"""Drawings show every map and every edge, and are well-formed."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from detfuse.necks.topologies import bifpn, early, early_pyramid, fpn, pafpn, unet, unfused
from detfuse.visualize.graph import mermaid, svg


@pytest.mark.parametrize("topology", [unfused, early, early_pyramid, fpn, unet, pafpn, bifpn])
def test_drawings_show_every_map_and_edge(topology: Any) -> None:
    graph = topology((3, 4, 5))
    root = ElementTree.fromstring(svg(graph, "a < b & c"))
    namespace = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{namespace}text")]
    assert all(name in texts for name in graph.level_of)
    assert f"a < b & c · {graph.kind} fusion" in texts
    titles = {title.text for title in root.iter(f"{namespace}title")}
    assert titles >= {f"{source} to {node}" for source, node in graph.edges}
    boxes = [(r.get("x"), r.get("y")) for r in root.iter(f"{namespace}rect") if r.get("rx")]
    assert len(boxes) == len(set(boxes)) == len(graph.level_of), "two boxes on one place"

    lines = mermaid(graph).splitlines()
    assert lines[0] == "flowchart LR"
    assert all(f"  {source} --> {node}" in lines for source, node in graph.edges)
