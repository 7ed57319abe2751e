"""Parameters, operations and maps of a detector, part by part, as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from detfuse.attention.inserts import Insert, inserts_of
from detfuse.inspect.cost import PARTS, Cost, Trace, trace
from detfuse.structures import Size
from detfuse.words import aligned

_MAX_ROWS = 16  # children shown per part


def summarise(detector: nn.Module, image_size: Size) -> str:
    """A table of the detector's parts with parameters, operations and output maps, for one image of ``image_size``.

    Args:
        detector: see :func:`detfuse.inspect.cost.trace`.
        image_size: (height, width) in pixels, padded.
    """
    found = trace(detector, image_size)
    costs = found.costs
    inserts = inserts_of(detector)  # they have a table of their own
    rows = [("part", "parameters", "trainable", "GFLOPs", "output (C x H x W / stride)")]
    for part in PARTS:
        rows.append(_row(part, costs[part], _describe(found.outputs.get(part), image_size)))
        children = [
            name
            for name in _children(detector, part)
            if (costs[name].parameters or costs[name].flops) and name not in inserts
        ]
        rows += [_row(f"  {name}", costs[name], "") for name in children[:_MAX_ROWS]]
        if len(children) > _MAX_ROWS:
            rows.append((f"  ... {len(children) - _MAX_ROWS} more", "", "", "", ""))
    rows.append(_row("total", costs[""], ""))
    attention = _attention_table(inserts, found)
    note = (
        f"One image of {image_size[0]} x {image_size[1]} pixels. GFLOPs: 1e9 operations of inference up to the "
        "candidates, a multiply-add counts as two; convolutions and matrix products only."
    )
    return "\n".join([_table(rows), *attention, note])


def _attention_table(inserts: dict[str, Insert], found: Trace) -> list[str]:
    """Where attention stands and what it costs; nothing if there is none."""
    if not inserts:
        return []
    rows = [("attention", "parameters", "trainable", "GFLOPs", "map (C x H x W)")]
    for name, insert in inserts.items():
        label = f"  {insert.site} {insert.at}: {insert.kind}"
        rows.append(_row(label, found.costs[name], _describe_maps(found.maps.get(name, ()))))
    parts = [found.costs[name] for name in inserts]
    sums = [sum(getattr(cost, field) for cost in parts) for field in ("parameters", "trainable", "flops")]
    rows.append(_row("attention in all (part of the above)", Cost(*sums), ""))
    return ["", _table(rows), ""]


def _describe_maps(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape[1:])) for shape in shapes)


def _children(detector: nn.Module, part: str) -> Iterator[str]:
    """Names of a part's modules one level down, below wrappers of a single module, containers opened."""
    module, name = detector.get_submodule(part), part
    children = dict(module.named_children())
    while len(children) == 1:
        key, module = next(iter(children.items()))
        if not dict(module.named_children()):
            break
        name, children = f"{name}.{key}", dict(module.named_children())
    for key, child in children.items():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from (f"{name}.{key}.{member}" for member, _ in child.named_children())
        else:
            yield f"{name}.{key}"


def _describe(shapes: Any, image_size: Size) -> str:
    if isinstance(shapes, dict):
        return "; ".join(f"{key}: {_describe(value, image_size)}" for key, value in shapes.items() if value)
    if isinstance(shapes, list):
        maps = [_describe(value, image_size) for value in shapes if value]
        return ", ".join(maps if len(maps) < 4 else [maps[0], "...", maps[-1]])
    if not shapes:
        return ""
    _, *rest = shapes
    text = "x".join(map(str, rest))
    if len(shapes) == 4 and shapes[-1] > 0:
        # The nominal stride: extra levels have sizes rounded up.
        text += f" /{2 ** round(math.log2(max(image_size[1] / shapes[-1], 1)))}"
    return text


def _row(name: str, cost: Cost, output: str) -> tuple[str, str, str, str, str]:
    return name, f"{cost.parameters:,}", f"{cost.trainable:,}", f"{cost.flops / 1e9:.3f}", output


def _table(rows: list[tuple[str, str, str, str, str]]) -> str:
    lines = aligned(rows, left=(0, 4))
    rule = "-" * min(max(map(len, lines)), 120)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
