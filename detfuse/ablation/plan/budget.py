"""What a detector costs, and a neck made as expensive as the baseline's, so that an arm does not win by its size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detfuse.ablation.records import TOLERANCE, BudgetKind, Cost
from detfuse.build import build_backbone, build_detector, build_neck, without_pretrained
from detfuse.errors import InputError
from detfuse.inspect.summary import measure
from detfuse.protocols import Size
from detfuse.structures import FeatureSpec

_WIDTHS = (0.125, 4.0)  # inner width over the outputs': beyond, it is hardly the same neck any more
_DEEPEST = 8
_DEPTHS = {"repeats": "bidirectional layers", "depth": "plain blocks per level"}  # arguments of topologies


@dataclass(frozen=True)
class Solved:
    """How an arm gets the baseline's cost.

    Attributes:
        overrides: Hydra overrides of the neck; none if it is as it should be.
        cost: with these overrides.
        reached: whether the cost is within :data:`~detfuse.ablation.records.TOLERANCE` of the baseline's.
        note: what was done, for the report; empty if nothing was.
    """

    overrides: tuple[str, ...]
    cost: Cost
    reached: bool
    note: str


def cost_of(config: Mapping[str, Any], num_classes: int, image_size: Size) -> Cost:
    """Cost of the whole detector on one image; the latency is left out.

    Args:
        config: plain and resolved.
        num_classes: of the data.
        image_size: (height, width), padded.
    """
    return _Arm(config, num_classes, image_size).cost


def solve(config: Mapping[str, Any], baseline: Cost, kind: BudgetKind, num_classes: int) -> Solved:
    """Find the neck's inner width, then its depth, at which the whole detector costs what the baseline costs.

    The outputs keep their width, hence the head is the same. The width stays between an eighth and four times the
    outputs'. Where it is not enough, the topology's ``repeats`` or ``depth`` is changed as little as possible. With
    group norm widths are multiples of 8, as its groups are (:func:`detfuse.norms.group_norm`).

    Args:
        config: the arm's, plain and resolved.
        baseline: what it should cost, on images of its size.
        kind: what is held equal; ``free`` changes nothing.
        num_classes: of the data.

    Returns:
        The neck that comes closest, also where that is not close enough.
    """
    arm = _Arm(config, num_classes, baseline.image_size)
    if kind == "free":
        return Solved((), arm.cost, True, "")
    best = _Neck((), arm.cost)
    for depth in _depths(config):
        for neck in _around(arm, config, kind, baseline, depth):
            if _distance(neck.cost, baseline, kind) < _distance(best.cost, baseline, kind):
                best = neck
        if _distance(best.cost, baseline, kind) <= TOLERANCE:
            break
    reached = _distance(best.cost, baseline, kind) <= TOLERANCE
    return Solved(_overrides(best, config), best.cost, reached, _note(best, config, baseline, kind, reached))


@dataclass(frozen=True)
class _Neck:
    """Changed settings of the neck (key, value), and what the detector then costs."""

    changes: tuple[tuple[str, int], ...]
    cost: Cost


class _Arm:
    """A detector of which only the neck is built again.

    Attributes:
        cost: as configured.
    """

    def __init__(self, config: Mapping[str, Any], num_classes: int, image_size: Size) -> None:
        self.config = without_pretrained(config)
        backbone = build_backbone(self.config)
        detector = build_detector(self.config, num_classes, backbone)
        self._spec: FeatureSpec = backbone.out_spec
        self._shapes: list[torch.Size] = []
        assert isinstance(detector.neck, nn.Module)
        shapes = self._shapes  # a function refers to the list, of which a method would see a copy: measure copies hooks
        detector.neck.register_forward_pre_hook(lambda _module, inputs: shapes.extend(x.shape for x in inputs[0]))
        costs = measure(detector, image_size)
        self.cost = Cost(costs[""].parameters, costs["neck"].parameters, costs[""].flops, image_size, None)
        self._rest = self.cost.parameters - self.cost.neck_parameters, self.cost.flops - costs["neck"].flops
        self.with_changes = cache(self._with_changes)

    def _with_changes(self, changes: tuple[tuple[str, int], ...]) -> Cost | None:
        """The cost with other settings of the neck; None where it cannot be built."""
        config = deepcopy(self.config)
        for key, value in changes:
            *parents, leaf = key.split(".")
            node = config["neck"]
            for parent in parents:
                node = node[parent]
            node[leaf] = value
        try:
            with torch.device("meta"):
                neck = build_neck(config, self._spec)
                maps = [torch.empty(shape) for shape in self._shapes]
        except InputError:
            return None
        assert isinstance(neck, nn.Module)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            neck.eval()(maps)
        parameters, flops = sum(parameter.numel() for parameter in neck.parameters()), counter.get_total_flops()
        rest = self._rest
        return Cost(rest[0] + parameters, parameters, rest[1] + flops, self.cost.image_size, None)


def _depths(config: Mapping[str, Any]) -> list[tuple[tuple[str, int], ...]]:
    """Changes of the topology's depth: none first, then the nearest."""
    topology = config["neck"].get("topology") or {}
    changes: list[tuple[tuple[str, int], ...]] = [()]
    for key in (key for key in _DEPTHS if key in topology):  # in one order: a set's is another in every process
        others = [(abs(depth - topology[key]), depth) for depth in range(1, _DEEPEST + 1) if depth != topology[key]]
        changes += [((f"topology.{key}", depth),) for _, depth in sorted(others)]
    return changes


def _around(
    arm: _Arm, config: Mapping[str, Any], kind: BudgetKind, baseline: Cost, depth: tuple[tuple[str, int], ...]
) -> list[_Neck]:
    """The necks of this depth whose width is next to the wanted cost, found by bisection."""
    widths = _widths(config)

    def at(width: int) -> Cost | None:
        return arm.with_changes((*depth, ("width", width)))

    def amount(index: int) -> int:
        # a width that cannot be built counts as the next smaller one that can
        costs = (at(widths[i]) for i in range(index, -1, -1))
        return next((_amount(cost, kind) for cost in costs if cost is not None), 0)

    wanted = bisect_left(range(len(widths)), _amount(baseline, kind), key=amount)
    near = [(width, at(width)) for width in widths[max(0, wanted - 2) : wanted + 2]]
    return [_Neck((*depth, ("width", width)), cost) for width, cost in near if cost is not None]


def _widths(config: Mapping[str, Any]) -> range:
    neck = config["neck"]
    if "width" not in neck or "out_channels" not in neck:
        return range(0)
    step = 8 if neck.get("norm") == "group" else 1
    low, high = (round(factor * neck["out_channels"]) for factor in _WIDTHS)
    return range(max(step, low // step * step), max(step, high) + 1, step)


def _amount(cost: Cost, kind: BudgetKind) -> int:
    return cost.parameters if kind == "params" else cost.flops


def _distance(cost: Cost, baseline: Cost, kind: BudgetKind) -> float:
    return abs(_amount(cost, kind) / _amount(baseline, kind) - 1)


def _overrides(neck: _Neck, config: Mapping[str, Any]) -> tuple[str, ...]:
    now = config["neck"].get("width") or config["neck"].get("out_channels")
    return tuple(f"neck.{key}={value}" for key, value in neck.changes if (key, value) != ("width", now))


def _note(neck: _Neck, config: Mapping[str, Any], baseline: Cost, kind: BudgetKind, reached: bool) -> str:
    """What was done to the neck, in a sentence."""
    done = []
    for override in _overrides(neck, config):
        key, _, value = override.rpartition(".")[2].partition("=")
        if key == "width":
            done.append(f"inner width {value} instead of {config['neck']['width'] or config['neck']['out_channels']}")
        else:
            done.append(f"{value} {_DEPTHS[key]} instead of {config['neck']['topology'][key]}")
    share = _amount(neck.cost, kind) / _amount(baseline, kind) - 1
    what = "parameters" if kind == "params" else "FLOPs"
    changes = ", ".join(done) or "as configured"
    if reached:
        return f"{changes}: {share:+.1%} {what}" if done else ""
    why = "" if _widths(config) else "; this neck has no inner width to solve for"
    return f"budget not reached: {share:+.1%} {what} at the closest ({changes}){why}"
