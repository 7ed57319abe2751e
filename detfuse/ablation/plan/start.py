"""How large the numbers are that a head reads before the first step: told of every arm, or made the baseline's.

A sum is larger than a mean, whatever both are worth; a head that reads larger numbers starts with other outputs and
other gradients. So two arms differ in their scale at the start, unless it is set equal by one fixed factor behind every
node that fuses.

What is told is a standard deviation on the first batch of training, at the weights of the first seed, in training mode
(batch norms use the batch, frozen ones do not) and in float32. It covers all values of a map: images, channels and
cells, those of the padding too, because the head and its loss read them as well.

What the factors equalise is the root mean square of what a node fused. That is its deviation where the mean is zero;
where it is not, as behind ``max`` and ``complex``, the next convolution passes the mean on, and with equal deviations
there the head would start on maps 1.1 to 1.8 times as large as those of ``add`` (FPN, PAFPN, U-Net, early pyramid).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detfuse.ablation.plan.things import Pairs
from detfuse.detector import Detector
from detfuse.errors import InputError
from detfuse.fusion.graph import Node
from detfuse.inspect.neck_bench import deviation
from detfuse.protocols import HANDED_ON, Scalable, Watch
from detfuse.structures import Batch

NOTICEABLE = 1.2
"""Ratio of two deviations beyond which they are told as different. From seed to seed the maps of one arm vary by 3 to
8 % (standard deviation of six seeds, neck=fpn), its head's outputs by 13 to 21 %: less is the luck of the weights."""

_DIGITS = 4  # of what is written into a plan: the error is far below what is noticeable
_DRAWS = 0  # seed of dropout and stochastic depth while measuring: the same for all arms


def measured(detector: Detector, batch: Batch) -> dict[str, float]:
    """Standard deviation of every map that the head reads (``P3`` ...) and of each of its outputs over all levels.

    Nothing of the detector changes, nor torch's generators.

    Args:
        detector: as training begins.
        batch: on its device.
    """
    with _first_step(detector) as twin:
        maps, outputs = _run(twin, batch)
    found = {f"P{level}": deviation([x]) for level, x in zip(twin.neck.out_spec.levels, maps, strict=True)}
    made = {name: _floats(value) for name, value in outputs._asdict().items() if name != HANDED_ON}
    found |= {name: deviation(tensors) for name, tensors in made.items() if tensors}
    return {name: _rounded(value) for name, value in found.items()}


def scale_differences(baseline: Mapping[str, float], arm: Mapping[str, float]) -> Pairs:
    """Where an arm starts at noticeably another scale: one row for the maps, one for the head's outputs.

    Args:
        baseline: as :func:`measured`.
        arm: likewise; what only one of them has is left out.
    """
    differ = [name for name in baseline if name in arm and _is_noticeable(baseline[name], arm[name])]
    maps = [name for name in differ if name[0] == "P" and name[1:].isdecimal()]
    found: Pairs = {}
    for names in (maps, [name for name in differ if name not in maps]):
        if names:
            ours, theirs = ("/".join(shown(each[name]) for name in names) for each in (baseline, arm))
            found[f"scale at the start of {'/'.join(names)}"] = (ours, theirs)
    return found


def shown(value: float) -> str:
    """A deviation, or a factor, for people."""
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


@dataclass(frozen=True)
class Magnitudes:
    """How large a neck's maps are, as root mean squares.

    Attributes:
        nodes: (node, level) -> what it fused, or its one input; empty where the neck is no graph.
        maps: level -> the map that the head reads.
    """

    nodes: Mapping[tuple[str, int], float]
    maps: Mapping[int, float]

    def like(self, node: Node) -> float | None:
        """What is like another neck's node: the node of its name and level, else the map that is read at its level."""
        return self.nodes.get((node.name, node.level), self.maps.get(node.level))


def magnitudes(detector: Detector, batch: Batch) -> Magnitudes:
    """How large the baseline's maps are, as its training begins.

    Args:
        detector: the baseline.
        batch: on its device.
    """
    nodes: dict[str, float] = {}

    def see(node: str, fused: Tensor) -> Tensor:
        nodes[node] = _magnitude(fused)
        return fused

    with _first_step(detector) as twin, _watched(twin, see):
        maps, _ = _run(twin, batch)
    level_of = twin.neck.graph.level_of if twin.neck.graph is not None else {}
    read = zip(twin.neck.out_spec.levels, maps, strict=True)
    return Magnitudes(
        {(name, level_of[name]): value for name, value in nodes.items()}, {level: _magnitude(x) for level, x in read}
    )


@dataclass(frozen=True)
class Factors:
    """How an arm starts at the baseline's scale.

    Attributes:
        by_node: node that fuses -> factor on what it fuses; a node that needs none is left out.
        left: nodes that keep their scale, because the baseline has nothing to compare with, or one of the two maps is 0
            or not finite.
    """

    by_node: Mapping[str, float]
    left: tuple[str, ...]


def solve_factors(detector: Detector, batch: Batch, baseline: Magnitudes) -> Factors:
    """The factors with which every map that an arm fuses is as large as the baseline's.

    They are found in one pass, in order of computation: each node sees its inputs as the factors before it make them.

    Args:
        detector: the arm, as training begins; factors that it has already are changed.
        batch: on its device.
        baseline: what to reach.

    Raises:
        ValueError: if the neck is no fusion graph.
    """
    neck = detector.neck
    if not isinstance(neck, Scalable):
        raise InputError(f"equalise scale: the neck {type(neck).__name__} is no fusion graph, it has no nodes to scale")
    fusing = {node.name: node for node in neck.graph.nodes if len(node.inputs) > 1}
    factors, left = dict(neck.scales), []

    def scale(name: str, fused: Tensor) -> Tensor:
        if name not in fusing:
            return fused
        before, has, should = factors.get(name, 1.0), _magnitude(fused), baseline.like(fusing[name])
        ratio = should / has if should is not None and has > 0 else 0.0
        if not 0 < ratio < math.inf:
            left.append(name)
            return fused
        factors[name] = _rounded(before * ratio)
        return fused * (factors[name] / before)

    with _first_step(detector) as twin, _watched(twin, scale):
        _run(twin, batch)
    needed = {name: factors[name] for name in fusing if name in neck.scales or factors.get(name, 1.0) != 1}
    return Factors(needed, tuple(left))


@contextmanager
def _first_step(detector: Detector) -> Iterator[Detector]:
    """A copy of the detector as its first step finds it: what is drawn and counted meanwhile moves nothing."""
    device = detector.mean.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        torch.default_generator.manual_seed(_DRAWS)
        if device.type == "cuda":
            torch.cuda.manual_seed(_DRAWS)
        yield copy.deepcopy(detector).train()


def _run(twin: Detector, batch: Batch) -> tuple[list[Tensor], Any]:
    """The maps that the head reads, and its outputs."""
    read: list[Tensor] = []
    assert isinstance(twin.head, nn.Module)
    twin.head.register_forward_pre_hook(lambda _head, inputs: read.extend(inputs[0]))
    outputs = twin(batch.images, batch.image_sizes)
    return read, outputs


def _watched(twin: Detector, watch: Watch) -> AbstractContextManager[None]:
    return twin.neck.watched(watch) if isinstance(twin.neck, Scalable) else nullcontext()


def _floats(value: Any) -> list[Tensor]:
    """The maps of one of a head's outputs."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    return [tensor for item in value for tensor in _floats(item)] if isinstance(value, Sequence) else []


def _magnitude(x: Tensor) -> float:
    return float(x.float().square().mean().sqrt())


def _is_noticeable(ours: float, theirs: float) -> bool:
    low, high = sorted((ours, theirs))
    return not high <= NOTICEABLE * low  # what is no number is told too


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
