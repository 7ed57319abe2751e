"""``cost``: what each fusion operator costs in a neck, all else equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from omegaconf import OmegaConf
from torch import Tensor, nn

from detfuse.build import build_backbone, build_neck, size_divisor
from detfuse.cli.settings import CostSettings
from detfuse.config import group_options
from detfuse.data.collate import padded_size
from detfuse.errors import InputError, UserError
from detfuse.files.text import write_json
from detfuse.fusion.graph import FusionGraph
from detfuse.inspect.cost import Cost, cost_of_neck
from detfuse.inspect.neck_bench import inference, random_features, saved_bytes, start_scale, training_step
from detfuse.inspect.timing import Quartiles, Times, compare_times
from detfuse.protocols import Neck
from detfuse.runs.environment import describe_device, environment
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import note_made, require_file
from detfuse.structures import FeatureSpec
from detfuse.training.device import compute_device, memory_format_of
from detfuse.words import ruled

_REFERENCE = "add"
_ANY = "any"  # the one row of a neck in which the operator has no effect


@dataclass(frozen=True)
class _Measured:
    """The numbers of a neck, by operator."""

    costs: dict[str, Cost]
    saved_bytes: dict[str, int]
    scales: dict[str, float]
    inference: Times
    training: Times
    refused: dict[str, str]
    pins: str
    reference: str


def run(invocation: Invocation) -> None:
    """Print a table with a row for every operator, and write ``output`` if it is given.

    Raises:
        UserError: whatever the user can put right; an operator that the neck refuses is a row of the table.
    """
    config = invocation.config
    settings = CostSettings.of(config)
    output = require_file(Path(settings.output).expanduser()) if settings.output else None
    spec = build_backbone(config).out_spec
    size = padded_size(*settings.size, size_divisor(spec))
    device = compute_device(config["trainer"].get("accelerator", "auto"), config["trainer"].get("devices", 1))
    layout = memory_format_of(config)
    necks, refused = _build_necks(invocation, spec)
    neck = next(iter(necks.values()))
    idle = _why_idle(neck)
    if idle is not None:
        necks, refused = {_ANY: neck}, {}
    print(_heading(invocation, spec, size, device, neck), flush=True)
    features = random_features(spec, size, settings.batch, device=device, memory_format=layout)
    modules = {name: _module(neck).to(device).to(memory_format=layout) for name, neck in necks.items()}
    measured = _measure(modules, features, settings.rounds, refused, _pins(neck))
    table = _table(measured, settings.batch, invocation.choices.get("operator"))
    print(f"\n{table}\n\n{_notes(measured, settings, idle)}")
    if output is not None:
        write_json(output, _as_json(measured, settings, size, invocation))
        note_made(output)
        print(f"written to {output}")


def _build_necks(invocation: Invocation, spec: FeatureSpec) -> tuple[dict[str, Neck], dict[str, str]]:
    """The neck with every operator, and why it refuses the others; by itself if its YAML brings none."""
    if "operator" not in invocation.config:
        return {_ANY: build_neck(invocation.config, spec)}, {}
    necks: dict[str, Neck] = {}
    refused: dict[str, str] = {}
    for name, operator in _operators(invocation).items():
        try:
            necks[name] = build_neck({**invocation.config, "operator": operator}, spec)
        except InputError as error:  # such as widths that this operator cannot fuse
            refused[name] = str(error)
    if not necks:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
        raise UserError(f"neck={invocation.choices['neck']} can be built with no operator:{reasons}")
    return necks, refused


def _operators(invocation: Invocation) -> dict[str, Any]:
    """Every option of the group, the user's included; the chosen one has the settings that were typed."""
    chosen = invocation.choices.get("operator")
    found = {}
    for name in group_options(invocation.directories)["operator"]:
        if name == chosen:
            found[name] = invocation.config["operator"]
        else:
            composed = compose("cost", [f"operator={name}"])
            found[name] = OmegaConf.to_container(composed.operator, resolve=True)
    return found


def _module(neck: Neck) -> nn.Module:
    assert isinstance(neck, nn.Module)
    return neck


def _why_idle(neck: Neck) -> str | None:
    """Why the choice of the operator changes nothing in this neck; None if it does."""
    if neck.graph is None:
        return f"{type(neck).__name__} is no fusion graph"
    fusing = [node for node in neck.graph.nodes if len(node.inputs) > 1]
    if not fusing:
        return "no node has two inputs, nothing is fused"
    if all(node.operator for node in fusing):
        return f"every node that fuses pins its own ({_pins(neck)})"
    return None


def _pins(neck: Neck) -> str:
    """The nodes that have their own operator whatever the neck's is, as ``f4: concat``."""
    nodes = neck.graph.nodes if neck.graph is not None else ()
    return ", ".join(f"{node.name}: {node.operator}" for node in nodes if node.operator and len(node.inputs) > 1)


def _measure(
    necks: dict[str, nn.Module], features: list[Tensor], rounds: int, refused: dict[str, str], pins: str
) -> _Measured:
    reference = _REFERENCE if _REFERENCE in necks else next(iter(necks))

    def times(make: Callable[[nn.Module, Sequence[Tensor]], Callable[[], None]]) -> Times:
        runs = {name: make(neck, features) for name, neck in necks.items()}
        return compare_times(runs, reference, rounds, features[0].device)

    costs = {name: cost_of_neck(neck, [tuple(x.shape) for x in features]) for name, neck in necks.items()}
    kept = {name: saved_bytes(neck, features) for name, neck in necks.items()}
    scales = {name: start_scale(neck, features) for name, neck in necks.items()}
    return _Measured(costs, kept, scales, times(inference), times(training_step), refused, pins, reference)


def _heading(invocation: Invocation, spec: FeatureSpec, size: tuple[int, int], device: torch.device, neck: Neck) -> str:
    choices, batch = invocation.choices, invocation.config["batch"]
    levels = ", ".join(f"C{level} {channels}" for level, channels in zip(spec.levels, spec.channels, strict=True))
    fusion = ", no fusion graph" if neck.graph is None else f", {neck.graph.kind} fusion{_fusing_nodes(neck.graph)}"
    rows = {
        "neck": f"{choices['neck']}{fusion}",
        "backbone": f"{choices['backbone']}: {levels} channels",
        "images": f"{batch} of {size[0]} x {size[1]} pixels, float32",
        "device": describe_device(device),
    }
    return "\n".join(f"{name:<10}{text}" for name, text in rows.items())


def _fusing_nodes(graph: FusionGraph) -> str:
    """How many nodes fuse how many maps, as ``: 12 nodes of 2 maps, 9 of 3``."""
    arities = sorted(Counter(len(node.inputs) for node in graph.nodes if len(node.inputs) > 1).items())
    parts = [f"{nodes} {'node' if nodes == 1 else 'nodes'} of {maps} maps" for maps, nodes in arities]
    return f": {', '.join(parts)}" if parts else ""


def _table(measured: _Measured, batch: int, chosen: str | None) -> str:
    header = ["operator", "parameters", "M multiply-adds", "MiB kept", "scale", "inference", "training step"]
    rows = []
    for name in sorted([*measured.costs, *measured.refused], key=lambda name: (name != measured.reference, name)):
        label = f"{name} *" if name == chosen else name
        cost = measured.costs.get(name)
        if cost is None:
            rows.append([label, "refused", *["-"] * 5])
            continue
        rows.append(
            [
                label,
                f"{cost.parameters:,}",
                f"{_multiply_adds(cost) / batch / 1e6:,.1f}",
                f"{measured.saved_bytes[name] / batch / 2**20:,.2f}",
                f"{measured.scales[name] / measured.scales[measured.reference]:.2f}",
                _ratio(measured.inference.ratios[name]),
                _ratio(measured.training.ratios[name]),
            ]
        )
    return "\n".join(ruled(header, rows))


def _multiply_adds(cost: Cost) -> int:
    return cost.flops // 2


def _ratio(ratio: Quartiles) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _notes(measured: _Measured, settings: CostSettings, idle: str | None) -> str:
    inferring, training = (times.reference.median * 1e3 for times in (measured.inference, measured.training))
    reference = "the neck" if idle is not None else measured.reference
    notes = [f"{name} is refused: {reason}" for name, reason in measured.refused.items()]
    if idle is not None:
        notes.append(f"Any operator costs the same here: {idle}.")
    else:
        notes.append("* is the operator of this configuration.")
    if measured.pins and idle is None:
        notes.append(f"Pinned by the neck, the same in every row: {measured.pins}.")
    notes += [
        "parameters: of the whole neck.",
        "M multiply-adds: millions per image, of convolutions and matrix products; sums, norms, activations, pooling",
        "  and resampling are not counted.",
        "MiB kept: what the neck keeps per image for the backward pass, the backbone's maps included; no weights.",
        f"scale: standard deviation of all that the head reads at the start, by that of {reference}; what a backbone",
        "  would deliver are ReLUs of normal numbers.",
        f"inference, training step (forward and backward): time by that of {reference}, each measured right after it:",
        f"  median (quartiles) of {settings.rounds} rounds. The first row is {reference} by itself: the noise.",
        f"{reference} takes {inferring:.2f} ms for inference and {training:.2f} ms for a training step"
        f" (batch of {settings.batch}).",
    ]
    return "\n".join(notes)


def _as_json(
    measured: _Measured, settings: CostSettings, size: tuple[int, int], invocation: Invocation
) -> dict[str, Any]:
    """Raw numbers, of the whole batch, in bytes and seconds."""
    names = [*measured.costs, *measured.refused]
    return {
        "overrides": invocation.typed,
        "choices": invocation.choices,
        "image_size": list(size),
        "batch": settings.batch,
        "rounds": settings.rounds,
        "environment": environment(),
        "reference": {
            "operator": measured.reference,
            "inference_seconds": asdict(measured.inference.reference),
            "training_seconds": asdict(measured.training.reference),
        },
        "operators": {
            name: {"refused": measured.refused[name]}
            if name in measured.refused
            else {
                "parameters": measured.costs[name].parameters,
                "multiply_adds": _multiply_adds(measured.costs[name]),
                "saved_bytes": measured.saved_bytes[name],
                "start_scale": measured.scales[name],
                "inference_ratio": asdict(measured.inference.ratios[name]),
                "training_ratio": asdict(measured.training.ratios[name]),
            }
            for name in sorted(names)
        },
    }
