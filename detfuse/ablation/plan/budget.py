"""What a detector costs, and a neck made as expensive as the baseline's, so that an arm does not win by its size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from detfuse.ablation.records import TOLERANCE, BudgetKind, DetectorCost
from detfuse.build import build_backbone, build_detector, build_neck, without_pretrained
from detfuse.errors import InputError
from detfuse.inspect.cost import cost_of_neck, trace
from detfuse.structures import FeatureSpec, Size
from detfuse.words import typeset

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
    cost: DetectorCost
    reached: bool
    note: str


def cost_of(config: Mapping[str, Any], num_classes: int, image_size: Size) -> DetectorCost:
    """Cost of the whole detector on one image; the latency is left out.

    Args:
        config: plain and resolved.
        num_classes: of the data.
        image_size: (height, width), padded.
    """
    return _Arm(config, num_classes, image_size).cost


def solve(config: Mapping[str, Any], baseline: DetectorCost, kind: BudgetKind, num_classes: int) -> Solved:
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
    cost: DetectorCost


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
        found = trace(detector, image_size)
        whole, neck = found.costs[""], found.costs["neck"]
        self.cost = DetectorCost(whole.parameters, neck.parameters, whole.flops, image_size, None)
        self._maps: Sequence[tuple[int, ...]] = found.outputs["backbone"]
        self._rest = whole.parameters - neck.parameters, whole.flops - neck.flops
        self.with_changes = cache(self._with_changes)
        self._built = cache(self._build)

    def amount(self, changes: tuple[tuple[str, int], ...], kind: BudgetKind) -> int | None:
        """What is held equal of the cost with other settings of the neck; operations are counted only if it is they."""
        if kind == "flops":
            cost = self.with_changes(changes)
            return None if cost is None else cost.flops
        neck = self._built(changes)
        return None if neck is None else self._rest[0] + sum(weight.numel() for weight in neck.parameters())

    def _with_changes(self, changes: tuple[tuple[str, int], ...]) -> DetectorCost | None:
        """The cost with other settings of the neck; None where it cannot be built."""
        neck = self._built(changes)
        if neck is None:
            return None
        cost, (parameters, flops) = cost_of_neck(neck, self._maps), self._rest
        return replace(
            self.cost,
            parameters=parameters + cost.parameters,
            neck_parameters=cost.parameters,
            flops=flops + cost.flops,
        )

    def _build(self, changes: tuple[tuple[str, int], ...]) -> nn.Module | None:
        """The neck with other settings, on the meta device; None where it cannot be built."""
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
        except InputError:
            return None
        assert isinstance(neck, nn.Module)
        return neck


def _depths(config: Mapping[str, Any]) -> list[tuple[tuple[str, int], ...]]:
    """Changes of the topology's depth: none first, then the nearest."""
    topology = config["neck"].get("topology") or {}
    changes: list[tuple[tuple[str, int], ...]] = [()]
    for key in (key for key in _DEPTHS if key in topology):  # in one order: a set's is another in every process
        others = [(abs(depth - topology[key]), depth) for depth in range(1, _DEEPEST + 1) if depth != topology[key]]
        changes += [((f"topology.{key}", depth),) for _, depth in sorted(others)]
    return changes


def _around(
    arm: _Arm, config: Mapping[str, Any], kind: BudgetKind, baseline: DetectorCost, depth: tuple[tuple[str, int], ...]
) -> list[_Neck]:
    """The necks of this depth whose width is next to the wanted cost, found by bisection."""
    widths = _widths(config)

    def amount(index: int) -> int:
        # a width that cannot be built counts as the next smaller one that can
        amounts = (arm.amount((*depth, ("width", widths[i])), kind) for i in range(index, -1, -1))
        return next((found for found in amounts if found is not None), 0)

    wanted = bisect_left(range(len(widths)), _amount(baseline, kind), key=amount)
    near = [(*depth, ("width", width)) for width in widths[max(0, wanted - 2) : wanted + 2]]
    return [_Neck(changes, cost) for changes in near if (cost := arm.with_changes(changes)) is not None]


def _widths(config: Mapping[str, Any]) -> range:
    neck = config["neck"]
    if "width" not in neck or "out_channels" not in neck:
        return range(0)
    step = 8 if neck.get("norm") == "group" else 1
    low, high = (round(factor * neck["out_channels"]) for factor in _WIDTHS)
    return range(max(step, low // step * step), max(step, high) + 1, step)


def _amount(cost: DetectorCost, kind: BudgetKind) -> int:
    return cost.parameters if kind == "params" else cost.flops


def _distance(cost: DetectorCost, baseline: DetectorCost, kind: BudgetKind) -> float:
    return abs(_amount(cost, kind) / _amount(baseline, kind) - 1)


def _overrides(neck: _Neck, config: Mapping[str, Any]) -> tuple[str, ...]:
    now = config["neck"].get("width") or config["neck"].get("out_channels")
    return tuple(f"neck.{key}={value}" for key, value in neck.changes if (key, value) != ("width", now))


def _note(neck: _Neck, config: Mapping[str, Any], baseline: DetectorCost, kind: BudgetKind, reached: bool) -> str:
    """What was done to the neck, in a sentence."""
    done = []
    for override in _overrides(neck, config):
        key, _, value = override.rpartition(".")[2].partition("=")
        if key == "width":
            done.append(f"inner width {value} instead of {config['neck']['width'] or config['neck']['out_channels']}")
        else:
            done.append(f"{value} {_DEPTHS[key]} instead of {config['neck']['topology'][key]}")
    share = typeset(100 * (_amount(neck.cost, kind) / _amount(baseline, kind) - 1), sign=True)
    what = "parameters" if kind == "params" else "FLOPs"
    changes = ", ".join(done) or "as configured"
    if reached:
        return f"{changes}: {share} % {what}" if done else ""
    why = "" if _widths(config) else "; this neck has no inner width to solve for"
    return f"budget not reached: {share} % {what} at the closest ({changes}){why}"
