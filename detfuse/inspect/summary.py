"""Parameters, operations and maps of a detector, part by part."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from detfuse.attention.inserts import inserts_of

PARTS = ("backbone", "neck", "head")
_MAX_ROWS = 16  # children shown per part


@dataclass(frozen=True)
class Cost:
    """What one part of a detector costs, on one image.

    Attributes:
        parameters: number of weights, those of frozen layers included, buffers not.
        trainable: number of weights that learn.
        flops: floating-point operations of inference on one image, up to the candidates that are left to combine (whose
            number is fixed); a multiply-add counts as two. Convolutions and matrix products are counted, as torch's
            FlopCounterMode does; norms, activations and resampling are not.
    """

    parameters: int
    trainable: int
    flops: int


def measure(detector: nn.Module, image_size: tuple[int, int]) -> dict[str, Cost]:
    """Cost of the detector (key ``""``) and of its modules by name, such as ``backbone`` and ``neck.p3``.

    The measurement computes on a copy without data: no state of the detector changes, and large images cost no time.

    Args:
        detector: has ``backbone``, ``neck``, ``head``, ``forward`` and ``candidates``, both of them functions of
            (images uint8 (B, 3, H, W), image_sizes (B, 2)).
        image_size: (height, width) in pixels, padded: multiples of the backbone's coarsest stride.
    """
    costs, _ = _measure(detector, image_size)
    return costs


def summarise(detector: nn.Module, image_size: tuple[int, int]) -> str:
    """A table of the detector's parts with parameters, operations and output maps, for one image of ``image_size``.

    Args:
        detector: see :func:`measure`.
        image_size: (height, width) in pixels, padded.
    """
    costs, shapes = _measure(detector, image_size)
    inserts = inserts_of(detector)  # they have a table of their own
    rows = [("part", "parameters", "trainable", "GFLOPs", "output (C x H x W / stride)")]
    for part in PARTS:
        rows.append(_row(part, costs[part], _describe(shapes.get(part), image_size)))
        children = [
            name
            for name in _children(detector, part)
            if (costs[name].parameters or costs[name].flops) and name not in inserts
        ]
        rows += [_row(f"  {name}", costs[name], "") for name in children[:_MAX_ROWS]]
        if len(children) > _MAX_ROWS:
            rows.append((f"  ... {len(children) - _MAX_ROWS} more", "", "", "", ""))
    rows.append(_row("total", costs[""], ""))
    attention = _attention_table(detector, costs, shapes)
    note = (
        f"One image of {image_size[0]} x {image_size[1]} pixels. GFLOPs: 1e9 operations of inference up to the "
        "candidates, a multiply-add counts as two; convolutions and matrix products only."
    )
    return "\n".join([_table(rows), *attention, note])


def _attention_table(detector: nn.Module, costs: Mapping[str, Cost], shapes: Mapping[str, Any]) -> list[str]:
    """Where attention stands and what it costs; nothing if there is none."""
    inserts = inserts_of(detector)
    if not inserts:
        return []
    rows = [("attention", "parameters", "trainable", "GFLOPs", "map (C x H x W)")]
    for name, insert in inserts.items():
        label = f"  {insert.site} {insert.at}: {insert.kind}"
        rows.append(_row(label, costs[name], _describe_maps(shapes.get(name, []))))
    parts = [costs[name] for name in inserts]
    sums = [sum(getattr(cost, field) for cost in parts) for field in ("parameters", "trainable", "flops")]
    rows.append(_row("attention in all (part of the above)", Cost(*sums), ""))
    return ["", _table(rows), ""]


def _describe_maps(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape[1:])) for shape in shapes)


def maps_at_inserts(detector: nn.Module, image_size: tuple[int, int]) -> dict[str, list[tuple[int, ...]]]:
    """Shapes (1, C, H, W) of every map that passes each insert, by the insert's dotted name.

    Args:
        detector: see :func:`measure`.
        image_size: (height, width) in pixels, padded.
    """
    _, shapes = _measure(detector, image_size)
    return {name: shapes[name] for name in inserts_of(detector) if name in shapes}


def _measure(detector: nn.Module, image_size: tuple[int, int]) -> tuple[dict[str, Cost], dict[str, Any]]:
    device = next(detector.parameters()).device
    twin: Any = copy.deepcopy(detector).eval()  # a head may cache anchors: the twin's never leave this function
    outputs: dict[str, Any] = {}
    for part in PARTS:
        getattr(twin, part).register_forward_hook(
            lambda _module, _inputs, output, part=part: outputs.__setitem__(part, _shapes(output))
        )
    for name, insert in inserts_of(twin).items():
        insert.attention.register_forward_hook(  # towers are called once per level
            lambda _module, _inputs, output, name=name: outputs.setdefault(name, []).append(tuple(output.shape))
        )
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), counter:
        images = torch.zeros(1, 3, *image_size, dtype=torch.uint8, device=device)
        # not forward alone: a head may compute later, on what it has chosen
        twin.candidates(images, torch.tensor([list(image_size)], device=device))
    root = type(twin).__name__
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    before = sum(counts.get(f"{root}.{part}", 0) for part in ("backbone", "neck"))
    counts[f"{root}.head"] = counts.get("Global", 0) - before
    costs = {}
    for name, module in detector.named_modules():
        parameters = list(module.parameters())
        costs[name] = Cost(
            parameters=sum(p.numel() for p in parameters),
            trainable=sum(p.numel() for p in parameters if p.requires_grad),
            flops=_flops(counts, root, name, module) if name else counts.get("Global", 0),
        )
    return costs, outputs


def _flops(counts: Mapping[str, int], root: str, name: str, module: nn.Module) -> int:
    """Operations of one module; one that is never called itself has those of its members."""
    counted = counts.get(f"{root}.{name}")
    if counted is not None:
        return counted
    return sum(_flops(counts, root, f"{name}.{key}", child) for key, child in module.named_children())


def _shapes(output: Any) -> Any:
    """The output with every tensor replaced by its shape."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        return {key: _shapes(value) for key, value in output._asdict().items()}
    if isinstance(output, Mapping):
        return {str(key): _shapes(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return [_shapes(value) for value in output]
    return None


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


def _describe(shapes: Any, image_size: tuple[int, int]) -> str:
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
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row in rows:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:4], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers, row[4]]).rstrip())
    rule = "-" * min(max(map(len, lines)), 120)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
