"""The fusion graphs of the arms, side by side, with what sets them apart from the baseline's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from detfuse.ablation.report.blocks import Block, Figure, FigureRow, Section, Text
from detfuse.ablation.report.findings import Findings
from detfuse.attention.inserts import Place
from detfuse.fusion.graph import FusionGraph
from detfuse.visualize.graph import Fusion, made_otherwise, svg
from detfuse.words import listed

_DEFAULTS = {"block": "no block", "operator": "the neck's operator", "up": "the neck's up-sampling"}
_DEFAULTS |= {"down": "the neck's down-sampling"}


def graphs(found: Findings) -> Section:
    """Every fusion graph once, under the names of all arms that have it, against the baseline's."""
    fusions = {arm: one.fusion for arm, one in found.evidence.items()}
    alike: list[tuple[Fusion, list[str]]] = []
    for arm, fusion in fusions.items():
        if fusion is not None:
            known = next((names for other, names in alike if other == fusion), None)
            if known is None:
                alike.append((fusion, [arm]))
            else:
                known.append(arm)
    baseline = fusions[found.plan.baseline.name]
    figures = tuple(
        _figure(fusion, names, None if baseline is None else baseline.graph, is_baseline=fusion == baseline)
        for fusion, names in alike
    )
    blocks: list[Block] = [FigureRow(figures)] if figures else []
    gone = [arm for arm, fusion in fusions.items() if fusion is None]
    blocks += [Text(f"No run of {listed(gone)} has stored a fusion graph (fusion.json).")] if gone else []
    return Section("The fusion graphs", blocks)


def _figure(fusion: Fusion, names: Sequence[str], baseline: FusionGraph | None, *, is_baseline: bool) -> Figure:
    graph = fusion.graph
    if is_baseline:
        same = f" The same graph: {listed(names[1:])}." if len(names) > 1 else ""
        caption = f"{names[0]}, the baseline.{same}"
    else:
        caption = f"{listed(names)}: {against(graph, baseline)}."
    if fusion.attention:
        caption += f" Attention: {_listed_places(fusion.attention)}."
    caption += " Under a map: the fixed factor on what its node fuses." if fusion.scales else ""
    title = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    other = None if is_baseline else baseline
    drawing = svg(graph, title, fusion.attention, baseline=other, scales=fusion.scales)
    return Figure(f"fusion-{names[0]}", drawing, caption, foreign=True)


def against(graph: FusionGraph, baseline: FusionGraph | None) -> str:
    """What a graph has that the baseline's has not, the other way round, and what both make in two ways."""
    if baseline is None:
        return "the baseline has no graph to compare with"
    added = [edge for edge in graph.edges if edge not in baseline.edges]
    lost = ", ".join(f"{a} → {b}" for a, b in baseline.edges if (a, b) not in graph.edges)
    otherwise = _otherwise(graph, baseline)
    if not (added or lost or otherwise):
        return "the same graph as the baseline's"
    parts = [f"{len(added)} of {len(graph.edges)} edges are not in the baseline"]
    parts += [f"gone from the baseline: {lost}" if lost else "none of its edges is gone"]
    return "; ".join([*parts, *otherwise])


def _otherwise(graph: FusionGraph, baseline: FusionGraph) -> list[str]:
    """``p6 and p7 are made otherwise: conv3 instead of no block``, a part for each way."""
    by_change: dict[str, list[str]] = {}
    for node, pairs in made_otherwise(graph, baseline).items():
        ways = ((_named(key, ours), _named(key, theirs)) for key, (theirs, ours) in pairs.items())
        said = ", ".join(f"{ours} instead of {theirs}" for ours, theirs in ways)
        by_change.setdefault(said, []).append(node)
    verbs = ("is" if len(nodes) == 1 else "are" for nodes in by_change.values())
    named = zip(by_change.items(), verbs, strict=True)
    return [f"{listed(nodes)} {verb} made otherwise: {said}" for (said, nodes), verb in named]


def _named(key: str, value: Any) -> str:
    if value is None:
        return _DEFAULTS[key]
    if key == "level":
        return f"stride {2**value}"
    if key == "project":
        return "projections" if value else "no projections"
    return str(value)


def _listed_places(attention: Sequence[Place]) -> str:
    counts = Counter(f"{place.kind} at {place.site}" for place in attention)
    return ", ".join(f"{what} ({number})" if number > 1 else what for what, number in counts.items())
