"""Drawings of a fusion graph: SVG for pages and run folders, Mermaid for Markdown.

Levels are rows, coarse above fine; the order of computation goes from left to right. Attention is a pill with its name:
under a backbone map (what stands inside its stage, and at its end), on an edge, on the corner of a fused map or output.
A fixed factor on what a node fuses stands under its map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from detfuse.attention.inserts import BACKBONE_SITES, NECK_SITES, Place
from detfuse.fusion.graph import FusionGraph
from detfuse.visualize import draw

_COLUMN, _ROW, _WIDTH, _HEIGHT, _MARGIN = 112, 84, 68, 34, 28
_PILL, _NOTE = "#6d28d9", "#475569"
_HALO = "#fde68a"  # behind what another graph does not have
_LEGEND = {False: 500, True: 610}  # room for its words, without and with what is made otherwise
_OTHERWISE = "#d97706"  # around what it has, too, but makes otherwise
_DASH = "4 3"
_UP, _DOWN, _SAME = "#b4540a", "#1f6f8b", "#6b7280"  # an edge to a finer level, to a coarser one, within a level

_MADE_BY = ("level", "block", "operator", "up", "down", "project")
"""What makes a node, but for its name and inputs."""

_Point = tuple[float, float]
_Places = Mapping[str, tuple[int, int]]
"""Map -> where its box begins, left and top."""


@dataclass(frozen=True)
class Fusion:
    """What a detector fuses, as plain data: all that a drawing needs.

    Attributes:
        graph: the neck's.
        attention: of the whole detector.
        scales: node -> fixed factor on what it fuses.
    """

    graph: FusionGraph
    attention: tuple[Place, ...] = ()
    scales: Mapping[str, float] = field(default_factory=dict)


def made_otherwise(graph: FusionGraph, baseline: FusionGraph) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Nodes that both graphs have and make in two ways: name -> what differs -> (in the baseline, in the graph).

    Their inputs are not compared: edges show these.
    """
    others = {node.name: node for node in baseline.nodes}
    found = {}
    for node in graph.nodes:
        if other := others.get(node.name):
            pairs = {key: (getattr(other, key), getattr(node, key)) for key in _MADE_BY}
            found[node.name] = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    return {name: pairs for name, pairs in found.items() if pairs}


def mermaid(graph: FusionGraph, attention: Iterable[Place] = (), scales: Mapping[str, float] | None = None) -> str:
    """The graph as a Mermaid flow chart, one subgraph per level.

    Args:
        graph: what to draw.
        attention: where it stands, to write it on edges and in maps.
        scales: node -> fixed factor, to write it in its map.
    """
    # several of one kind within a stage are one note
    marks = dict.fromkeys((place.at.split(" ")[0], f"{place.kind} {place.site}") for place in attention)
    marks |= dict.fromkeys((node, _times(factor)) for node, factor in (scales or {}).items())
    lines = ["flowchart LR"]
    for level in sorted(set(graph.level_of.values()), reverse=True):
        lines.append(f'  subgraph level{level}["stride {2**level}"]')
        for name, at in graph.level_of.items():
            if at == level:
                noted = "".join(f"<br/>{text}" for at, text in marks if at == name)
                lines.append(f"    {name}{_mermaid_shape(graph, name, noted)}")
        lines.append("  end")
    for source, node in graph.edges:
        label = ", ".join(text for at, text in marks if at == f"{source}->{node}")
        lines.append(f"  {source} -->{f'|{label}|' if label else ''} {node}")
    return "\n".join(lines) + "\n"


def _mermaid_shape(graph: FusionGraph, name: str, noted: str) -> str:
    if name in graph.outputs:
        return f"([{name}{noted}])"
    return f"[/{name}{noted}/]" if name in _backbone(graph) else f"[{name}{noted}]"


def svg(
    graph: FusionGraph,
    title: str = "",
    attention: Iterable[Place] = (),
    *,
    baseline: FusionGraph | None = None,
    scales: Mapping[str, float] | None = None,
) -> str:
    """The graph as a self-contained SVG document.

    Args:
        graph: what to draw.
        title: written above; the kind of fusion is added.
        attention: where it stands.
        baseline: another graph; nodes and edges that it does not have (by their names) are highlighted, and nodes that
            it makes otherwise.
        scales: node -> fixed factor on what it fuses.
    """
    columns = _columns(graph)
    rows = {level: i for i, level in enumerate(sorted(set(graph.level_of.values()), reverse=True))}
    places = {
        name: (_MARGIN + 70 + columns[name] * _COLUMN, _MARGIN + 34 + rows[level] * _ROW)
        for name, level in graph.level_of.items()
    }
    changed = baseline is not None and bool(made_otherwise(graph, baseline))
    width = max(_LEGEND[changed], max(x for x, _ in places.values()) + _WIDTH + _MARGIN)
    attention = list(attention)
    room = 30 if any(place.site in BACKBONE_SITES for place in attention) else 0  # for the pills under the lowest row
    height = max(y for _, y in places.values()) + _HEIGHT + _MARGIN + 22 + room
    heading = " · ".join(part for part in (title, f"{graph.kind} fusion") if part)
    parts = [
        _arrowheads(),
        draw.rect(0, 0, width, height, color="white"),
        draw.text(_MARGIN, _MARGIN, heading, size=15, bold=True, color="black"),
    ]
    for level, row in rows.items():
        y = _MARGIN + 34 + row * _ROW + _HEIGHT / 2
        parts.append(draw.line(_MARGIN + 58, y, width - 8, y, color="#eceff3"))
        parts.append(draw.text(_MARGIN - 16, y + 4, f"stride {2**level}", size=11, color=_SAME))
    if baseline is not None:
        parts += _halos(graph, baseline, places)
    parts += [_edge(places, source, node) for source, node in graph.edges]
    parts += [part for name, place in places.items() for part in _box(graph, name, *place)]
    parts += [_factor(node, factor, *places[node]) for node, factor in (scales or {}).items()]
    parts += _pills(places, attention)
    parts += _legend(height, halo=baseline is not None, changed=changed)
    return draw.document(width, height, parts, heading) + "\n"


def _arrowheads() -> str:
    size: draw.Attributes = {"viewBox": "0 0 8 8", "refX": 7, "refY": 4, "markerWidth": 7, "markerHeight": 7}
    tips = {color: draw.element("path", d="M0 0 8 4 0 8z", fill=color) for color in (_UP, _DOWN, _SAME)}
    heads = (draw.element("marker", tip, id=_head(color), **size, orient="auto") for color, tip in tips.items())
    return draw.element("defs", *heads)


def _head(color: str) -> str:
    return f"a{color[1:]}"


def _backbone(graph: FusionGraph) -> set[str]:
    return {f"c{level}" for level in graph.in_levels}


def _columns(graph: FusionGraph) -> dict[str, int]:
    """Column of every map: behind all its inputs, the first that is free in its row."""
    columns = dict.fromkeys(_backbone(graph), 0)
    taken = {(level, 0) for level in graph.in_levels}
    for node in graph.nodes:
        column = 1 + max(columns[name] for name in node.inputs)
        while (node.level, column) in taken:
            column += 1
        columns[node.name] = column
        taken.add((node.level, column))
    return columns


def _halos(graph: FusionGraph, baseline: FusionGraph, places: _Places) -> Iterator[str]:
    look: draw.Attributes = {"fill": "none", "stroke": _HALO, "stroke_width": 9, "class_": "added"}
    for source, node in graph.edges:
        if (source, node) not in baseline.edges:
            yield draw.element("path", d=_path(places[source], places[node]), **look)
    size: draw.Attributes = {"width": _WIDTH + 8, "height": _HEIGHT + 8}
    rim: draw.Attributes = {"fill": "none", "stroke": _OTHERWISE, "stroke_width": 2, "stroke_dasharray": _DASH}
    changed = made_otherwise(graph, baseline)
    for name, (x, y) in places.items():
        if name not in baseline.level_of:
            yield draw.element("rect", x=x - 4, y=y - 4, **size, fill=_HALO, class_="added")
        elif name in changed:
            yield draw.element("rect", x=x - 4, y=y - 4, **size, **rim, class_="changed")


def _edge(places: _Places, source: str, node: str) -> str:
    climb = places[source][1] - places[node][1]
    color = _SAME if climb == 0 else _DOWN if climb > 0 else _UP
    look: draw.Attributes = {"fill": "none", "stroke": color, "stroke_width": 1.6}
    path, title = _path(places[source], places[node]), draw.titled(f"{source} to {node}")
    return draw.element("path", *title, d=path, **look, marker_end=f"url(#{_head(color)})")


def _path(source: _Point, node: _Point) -> str:
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = _curve(source, node)
    return f"M{ax} {ay} C{bx} {by} {cx} {cy} {dx} {dy}"


def _curve(source: _Point, node: _Point) -> list[_Point]:
    """The four points of an edge's Bezier curve between two boxes."""
    (left, top), (right, bottom) = (source[0] + _WIDTH, source[1] + _HEIGHT / 2), (node[0], node[1] + _HEIGHT / 2)
    if top == bottom and node[0] - source[0] > _COLUMN:  # over the boxes between
        lift = _HEIGHT * 0.95
        return [(left, top - 6), (left + 34, top - lift), (right - 34, bottom - lift), (right, bottom - 8)]
    if node[0] - source[0] > _COLUMN:  # along the own row, where fewer boxes stand, and across in the last column
        return [(left, top), (right, top), (right - 26, bottom), (right, bottom)]
    bend = max(26.0, (right - left) / 2)
    return [(left, top), (left + bend, top), (right - bend, bottom), (right, bottom)]


def _pills(places: _Places, attention: list[Place]) -> Iterator[str]:
    """Attention, each at its place; several of one stage or of the towers as one pill with their number."""
    below = dict.fromkeys(places, 0)  # pills under each map so far
    within = Counter((i.site, i.at.split(" ")[0], i.kind) for i in attention if i.site in BACKBONE_SITES)
    for (site, at, kind), count in within.items():
        if at in places:
            x, y = places[at]
            text = f"{kind} {site.replace('_', ' ')}" + (f" x{count}" if count > 1 else "")
            yield _pill(x + _WIDTH / 2, y + _HEIGHT + 10 + 15 * below[at], text, f"{kind} at {site} of {at}")
            below[at] += 1
    for insert in attention:
        title = f"{insert.kind} at {insert.site} {insert.at}"
        if insert.site == "lateral":
            source, node = insert.at.split("->")
            yield _pill(*_on_curve(_curve(places[source], places[node]), 0.4), insert.kind, title)
        elif insert.site in NECK_SITES:
            x, y = places[insert.at]
            yield _pill(x + (10 if insert.site == "fused" else _WIDTH - 6), y - 3, insert.kind, title)
    towers = Counter(i.kind for i in attention if i.site == "head")
    if towers:
        text = ", ".join(f"{kind} x{count}" for kind, count in towers.items())
        yield draw.text(_MARGIN, _MARGIN + 16, f"in the head's towers: {text}", size=11, color=_PILL)


def _on_curve(points: list[_Point], t: float) -> _Point:
    """The point of a Bezier curve at ``t`` in 0..1."""
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    x, y = (round(sum(w * p[axis] for w, p in zip(weights, points, strict=True)), 1) for axis in (0, 1))
    return x, y


def _pill(x: float, y: float, text: str, title: str) -> str:
    width = 8 + 5.2 * len(text)
    ground = draw.element("rect", x=x - width / 2, y=y - 7, width=width, height=13, ry=6.5, fill=_PILL)
    name = draw.text(x, y + 2.8, text, size=9, color="white", anchor="middle")
    return draw.element("g", *draw.titled(title), ground, name)


def _box(graph: FusionGraph, name: str, x: int, y: int) -> Iterator[str]:
    made = {node.name: node for node in graph.nodes}
    node = made.get(name)
    fill, stroke = ("#eef2f7", "#94a3b8") if node is None else ("#fff", "#334155")
    if name in graph.outputs:
        fill, stroke = "#e7f5ec", "#15803d"
    notes = [] if node is None else [part for part in (node.operator, node.up, node.down, node.block) if part]
    if node is not None and len(node.inputs) > 1 and node.operator is None:
        notes.insert(0, "fuse")
    middle = x + _WIDTH / 2
    yield draw.element("rect", x=x, y=y, width=_WIDTH, height=_HEIGHT, rx=6, fill=fill, stroke=stroke)
    yield draw.text(middle, y + (15 if notes else 22), name, size=13, color="black", anchor="middle")
    if notes:
        written = draw.shortened(" · ".join(notes), _WIDTH, 9)
        yield draw.text(middle, y + 28, written, size=9, color=_NOTE, anchor="middle")


def _factor(node: str, factor: float, x: int, y: int) -> str:
    title = f"what {node} fuses is multiplied by {factor:g}"
    place = (x + _WIDTH / 2, y + _HEIGHT + 11)
    return draw.text(*place, _times(factor), size=10, color=_NOTE, anchor="middle", title=title)


def _times(factor: float) -> str:
    return f"× {factor:.3g}"


def _legend(height: int, *, halo: bool, changed: bool) -> Iterator[str]:
    entries = [(_SAME, "same level"), (_UP, "up-sampled"), (_DOWN, "down-sampled")]
    entries += [(_HALO, "not in the baseline")] if halo else []
    entries += [(_OTHERWISE, "made otherwise")] if changed else []
    start, y = float(_MARGIN), height - 16
    for color, text in entries:
        dash = _DASH if color == _OTHERWISE else None
        yield draw.line(start, y, start + 22, y, color=color, width=9 if color == _HALO else 2, dash=dash)
        yield draw.text(start + 28, y + 4, text, size=11, color=_NOTE)
        start += 44 + draw.width_of(text, 11)
