"""Drawings of a fusion graph: SVG for pages and run folders, Mermaid for Markdown.

Levels are rows, coarse above fine; the order of computation goes from left to right. Attention is a pill with its name:
under a backbone map (what stands inside its stage, and at its end), on an edge, on the corner of a fused map or output.
A fixed factor on what a node fuses stands under its map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

from detfuse.attention.inserts import BACKBONE_SITES, NECK_SITES, Place
from detfuse.fusion.graph import FusionGraph

_COLUMN, _ROW, _WIDTH, _HEIGHT, _MARGIN = 112, 84, 68, 34, 28
_PILL = "#6d28d9"
_HALO = "#fde68a"  # behind what another graph does not have
_UP, _DOWN, _SAME = "#b4540a", "#1f6f8b", "#6b7280"  # an edge to a finer level, to a coarser one, within a level


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
        baseline: another graph; nodes and edges that it does not have (by their names) are highlighted.
        scales: node -> fixed factor on what it fuses.
    """
    columns = _columns(graph)
    rows = {level: i for i, level in enumerate(sorted(set(graph.level_of.values()), reverse=True))}
    places = {
        name: (_MARGIN + 70 + columns[name] * _COLUMN, _MARGIN + 34 + rows[level] * _ROW)
        for name, level in graph.level_of.items()
    }
    width = max(x for x, _ in places.values()) + _WIDTH + _MARGIN
    attention = list(attention)
    room = 30 if any(place.site in BACKBONE_SITES for place in attention) else 0  # for the pills under the lowest row
    height = max(y for _, y in places.values()) + _HEIGHT + _MARGIN + 22 + room
    heading = " · ".join(part for part in (title, f"{graph.kind} fusion") if part)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="13">',
        f"<title>{escape(heading)}</title>",
        _MARKERS,
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN}" font-size="15" font-weight="bold">{escape(heading)}</text>',
    ]
    for level, row in rows.items():
        y = _MARGIN + 34 + row * _ROW + _HEIGHT / 2
        parts.append(f'<line x1="{_MARGIN + 58}" x2="{width - 8}" y1="{y}" y2="{y}" stroke="#eceff3"/>')
        parts.append(f'<text x="{_MARGIN - 16}" y="{y + 4}" fill="#6b7280" font-size="11">stride {2**level}</text>')
    if baseline is not None:
        parts += _halos(graph, baseline, places, columns)
    parts += [_edge(graph, places, columns, source, node) for source, node in graph.edges]
    parts += [_box(graph, name, *place) for name, place in places.items()]
    parts += [_factor(node, factor, *places[node]) for node, factor in (scales or {}).items()]
    parts += _pills(graph, places, columns, attention)
    parts += [_legend(height, halo=baseline is not None), "</svg>"]
    return "\n".join(parts) + "\n"


_MARKERS = (
    "<defs>"
    + "".join(
        f'<marker id="a{colour[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'
        for colour in (_UP, _DOWN, _SAME)
    )
    + "</defs>"
)


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


def _halos(
    graph: FusionGraph, baseline: FusionGraph, places: dict[str, tuple[int, int]], columns: dict[str, int]
) -> list[str]:
    added = [edge for edge in graph.edges if edge not in baseline.edges]
    paths = [_path(graph, places, columns, source, node) for source, node in added]
    halos = [f'<path d="{path}" fill="none" stroke="{_HALO}" stroke-width="9" class="added"/>' for path in paths]
    boxes = [place for name, place in places.items() if name not in baseline.level_of]
    return halos + [
        f'<rect x="{x - 4}" y="{y - 4}" width="{_WIDTH + 8}" height="{_HEIGHT + 8}" fill="{_HALO}" class="added"/>'
        for x, y in boxes
    ]


def _edge(
    graph: FusionGraph, places: dict[str, tuple[int, int]], columns: dict[str, int], source: str, node: str
) -> str:
    climb = graph.level_of[node] - graph.level_of[source]
    colour = _SAME if climb == 0 else _DOWN if climb > 0 else _UP
    path = _path(graph, places, columns, source, node)
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" marker-end="url(#a{colour[1:]})">'
        f"<title>{source} to {node}</title></path>"
    )


def _path(
    graph: FusionGraph, places: dict[str, tuple[int, int]], columns: dict[str, int], source: str, node: str
) -> str:
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = _curve(graph, places, columns, source, node)
    return f"M{ax} {ay} C{bx} {by} {cx} {cy} {dx} {dy}"


def _curve(
    graph: FusionGraph, places: dict[str, tuple[int, int]], columns: dict[str, int], source: str, node: str
) -> list[tuple[float, float]]:
    """The four points of an edge's Bezier curve."""
    (x1, y1), (x2, y2) = places[source], places[node]
    (left, top), (right, bottom) = (x1 + _WIDTH, y1 + _HEIGHT / 2), (x2, y2 + _HEIGHT / 2)
    same = graph.level_of[node] == graph.level_of[source]
    if same and columns[node] - columns[source] > 1:  # over the boxes between
        lift = _HEIGHT * 0.95
        return [(left, top - 6), (left + 34, top - lift), (right - 34, bottom - lift), (right, bottom - 8)]
    bend = max(26.0, (right - left) / 2)
    return [(left, top), (left + bend, top), (right - bend, bottom), (right, bottom)]


def _pills(
    graph: FusionGraph,
    places: dict[str, tuple[int, int]],
    columns: dict[str, int],
    attention: list[Place],
) -> Iterator[str]:
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
            yield _pill(*_on_curve(_curve(graph, places, columns, *insert.at.split("->")), 0.4), insert.kind, title)
        elif insert.site in NECK_SITES:
            x, y = places[insert.at]
            yield _pill(x + (10 if insert.site == "fused" else _WIDTH - 6), y - 3, insert.kind, title)
    towers = Counter(i.kind for i in attention if i.site == "head")
    if towers:
        text = ", ".join(f"{kind} x{count}" for kind, count in towers.items())
        yield (
            f'<text x="{_MARGIN}" y="{_MARGIN + 16}" font-size="11" fill="{_PILL}">in the head\'s towers: '
            f"{escape(text)}</text>"
        )


def _on_curve(points: list[tuple[float, float]], t: float) -> tuple[float, float]:
    """The point of a Bezier curve at ``t`` in 0..1."""
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    x, y = (round(sum(w * p[axis] for w, p in zip(weights, points, strict=True)), 1) for axis in (0, 1))
    return x, y


def _pill(x: float, y: float, text: str, title: str) -> str:
    width = 8 + 5.2 * len(text)
    return (
        f'<g><title>{escape(title)}</title><rect x="{x - width / 2:.1f}" y="{y - 7:.1f}" width="{width:.1f}" '
        f'height="13" ry="6.5" fill="{_PILL}"/><text x="{x}" y="{y + 2.8:.1f}" text-anchor="middle" font-size="9" '
        f'fill="white">{escape(text)}</text></g>'
    )


def _box(graph: FusionGraph, name: str, x: int, y: int) -> str:
    made = {node.name: node for node in graph.nodes}
    node = made.get(name)
    fill, stroke = ("#eef2f7", "#94a3b8") if node is None else ("#fff", "#334155")
    if name in graph.outputs:
        fill, stroke = "#e7f5ec", "#15803d"
    notes = [] if node is None else [part for part in (node.operator, node.block) if part]
    if node is not None and len(node.inputs) > 1 and node.operator is None:
        notes.insert(0, "fuse")
    middle = x + _WIDTH / 2
    label = f'<text x="{middle}" y="{y + (15 if notes else 22)}" text-anchor="middle">{name}</text>'
    note = (
        f'<text x="{middle}" y="{y + 28}" text-anchor="middle" font-size="9" fill="#475569">{" · ".join(notes)}</text>'
    )
    return (
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{fill}" stroke="{stroke}"/>'
        + label
        + (note if notes else "")
    )


def _factor(node: str, factor: float, x: int, y: int) -> str:
    return (
        f'<text x="{x + _WIDTH / 2}" y="{y + _HEIGHT + 11}" text-anchor="middle" font-size="10" fill="#475569">'
        f"{_times(factor)}<title>what {node} fuses is multiplied by {factor:g}</title></text>"
    )


def _times(factor: float) -> str:
    return f"× {factor:.3g}"


def _legend(height: int, *, halo: bool) -> str:
    entries = [(_SAME, "same level"), (_UP, "up-sampled"), (_DOWN, "down-sampled")]
    entries += [(_HALO, "not in the baseline")] if halo else []
    return "".join(
        f'<line x1="{_MARGIN + i * 130}" x2="{_MARGIN + 22 + i * 130}" y1="{height - 16}" y2="{height - 16}" '
        f'stroke="{colour}" stroke-width="{9 if colour == _HALO else 2}"/>'
        f'<text x="{_MARGIN + 28 + i * 130}" y="{height - 12}" font-size="11" fill="#475569">{text}</text>'
        for i, (colour, text) in enumerate(entries)
    )
