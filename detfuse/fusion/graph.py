"""A fusion topology as data: which maps meet, and in which order. Pure Python: no weights, no torch.

A graph is a list of :class:`Node`. Its sources are backbone levels, written ``c3``, ``c4`` ... by their level (log2 of
the stride), and earlier nodes. Projection and resampling belong to the *edge* ``source->node``, the operator and the
block to the *node*; FPN's inner sums and its smoothed outputs are therefore different nodes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

from detfuse.errors import InputError

Kind = Literal["early", "late", "pyramid"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_BACKBONE_NAME = re.compile(r"c\d+")


class GraphError(InputError):
    """A topology that cannot be built; the message lists everything that is wrong with it."""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_choice(value: object) -> bool:
    return value is None or isinstance(value, str)


_CHOICE = (_is_choice, "a name or null")
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_text, "text"),
    "level": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 16,
        "an integer of 0 to 16 (log2 of the stride)",
    ),
    "inputs": (lambda value: isinstance(value, list | tuple) and all(map(_is_text, value)), "a list of names"),
    "block": _CHOICE,
    "operator": _CHOICE,
    "up": _CHOICE,
    "down": _CHOICE,
    "project": (lambda value: isinstance(value, bool), "true or false"),
}
"""What each key of a node may be, as YAML has it."""


@dataclass(frozen=True)
class Node:
    """One fused map.

    Args:
        name: letters, digits and underscores; ``c3``, ``c4`` ... are taken by the backbone.
        level: log2 of the map's stride; the size is that of the first map seen at this level.
        inputs: backbone levels (``c4``) and earlier nodes, in the order in which the operator sees them.
        block: what is computed on the fused map, by its name in :mod:`detfuse.fusion.blocks`; None for nothing.
        operator: a *pin*: this operator (by its name in :mod:`detfuse.fusion.operators`) whatever the neck's is.
        up: a pin of the resampler for inputs from coarser levels.
        down: a pin of the resampler for inputs from finer levels.
        project: whether inputs of another width, and all inputs from the backbone, pass a 1x1 convolution first.
    """

    name: str
    level: int
    inputs: tuple[str, ...]
    block: str | None = None
    operator: str | None = None
    up: str | None = None
    down: str | None = None
    project: bool = True

    @classmethod
    def from_mapping(cls, entry: Mapping[str, Any]) -> Node:
        """A node as written in YAML.

        Raises:
            GraphError: for keys that a node does not have, missing ones, and values of the wrong type.
        """
        known = [field.name for field in fields(cls)]
        where = f"node {entry.get('name', dict(entry))!r}"
        problems = [f"{where}: unknown key {key!r} (known: {', '.join(known)})" for key in entry if key not in known]
        problems += [f"{where}: {key!r} is missing" for key in ("name", "level", "inputs") if key not in entry]
        problems += [
            f"{where}: {key} must be {_KINDS[key][1]}, got {value!r}"
            for key, value in entry.items()
            if key in known and not _KINDS[key][0](value)
        ]
        if problems:
            raise GraphError("; ".join(problems))
        return cls(**{**entry, "inputs": tuple(entry["inputs"])})


@dataclass(frozen=True)
class FusionGraph:
    """A checked topology.

    Args:
        in_levels: levels of the backbone's maps, ascending (finest first).
        nodes: in order of computation.
        outputs: names of the nodes that the head sees, finest first.

    Raises:
        GraphError: if names clash or are unknown, an input comes later than its user, an output is no node, output
            levels do not ascend, or something is computed that no output uses.
    """

    in_levels: tuple[int, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        problems = list(_problems(self.in_levels, self.nodes, self.outputs))
        if problems:
            raise GraphError("this fusion graph cannot be built: " + "; ".join(problems))

    @property
    def backbone(self) -> tuple[str, ...]:
        """Names of the backbone's maps, finest first."""
        return tuple(f"c{level}" for level in self.in_levels)

    @cached_property
    def level_of(self) -> dict[str, int]:
        """Level of every map by name, backbone levels first."""
        own = {node.name: node.level for node in self.nodes}
        return dict(zip(self.backbone, self.in_levels, strict=True)) | own

    @property
    def out_levels(self) -> tuple[int, ...]:
        """Levels of the outputs, finest first."""
        return tuple(self.level_of[name] for name in self.outputs)

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """All (source, node) pairs in order of computation."""
        return tuple((source, node.name) for node in self.nodes for source in node.inputs)

    @cached_property
    def sources(self) -> dict[str, frozenset[str]]:
        """The backbone levels that every map depends on."""
        found = {name: frozenset({name}) for name in self.backbone}
        for node in self.nodes:
            found[node.name] = frozenset().union(*(found[name] for name in node.inputs))
        return found

    def guide(self, node: Node) -> str | None:
        """The first input of a node that is of the node's own level; None if all must be resampled."""
        return next((source for source in node.inputs if self.level_of[source] == node.level), None)

    @property
    def kind(self) -> Kind:
        """How the graph fuses.

        *early*: a node that has fused all inputs, at least two, lies on every path from an input to an output;
        *late*: no output depends on two inputs; *pyramid*: the rest, such as FPN and PAFPN.
        """
        inputs = frozenset().union(*(self.sources[name] for name in self.outputs))
        if all(len(self.sources[name]) < 2 for name in self.outputs):
            return "late"
        complete = (node.name for node in self.nodes if self.sources[node.name] == inputs)
        return "early" if any(self._cuts(name) for name in complete) else "pyramid"

    def _cuts(self, cut: str) -> bool:
        """Whether every path from an input to an output passes through the node ``cut``."""
        reached = set(self.backbone)
        for node in self.nodes:
            if node.name != cut and reached.intersection(node.inputs):
                reached.add(node.name)
        return reached.isdisjoint(self.outputs)

    def __str__(self) -> str:
        """A line per node: ``t4 = fuse(c4, t5)`` where maps meet, ``p4 = conv3(t4)`` where one goes on."""
        return "\n".join([*map(_line, self.nodes), f"outputs: {', '.join(self.outputs)} ({self.kind} fusion)"])

    @classmethod
    def from_nodes(
        cls, in_levels: Sequence[int], nodes: Sequence[Mapping[str, Any]], outputs: Sequence[str]
    ) -> FusionGraph:
        """A graph from nodes as written in YAML."""
        return cls(tuple(in_levels), tuple(Node.from_mapping(entry) for entry in nodes), tuple(outputs))


def _line(node: Node) -> str:
    """What a node computes, as one would write it down."""
    made = ", ".join(node.inputs)
    done = node.operator or "fuse" if len(node.inputs) > 1 else node.up or node.down
    if done:
        made = f"{done}({made})"
    return f"{node.name} = {made if node.block is None else f'{node.block}({made})'}"


def checked_scales(graph: FusionGraph, scales: Mapping[str, float]) -> dict[str, float]:
    """Factors on what nodes fuse, in order of computation.

    Args:
        graph: whose nodes they belong to.
        scales: node -> factor.

    Raises:
        GraphError: naming every factor whose node does not exist or fuses nothing, or that is not positive and finite.
    """
    num_inputs = {node.name: len(node.inputs) for node in graph.nodes}
    fusing = [name for name, number in num_inputs.items() if number > 1]
    problems = []
    for name, factor in scales.items():
        if name not in num_inputs:
            problems.append(f"scales.{name}: there is no such node")
        elif name not in fusing:
            problems.append(f"scales.{name}: the node has one input, nothing is fused there")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
            problems.append(f"scales.{name}: the factor must be a positive number, got {factor!r}")
    if problems:
        raise GraphError(f"{'; '.join(problems)} (the nodes that fuse are {', '.join(fusing) or 'none'})")
    return {name: float(scales[name]) for name in fusing if name in scales}


def _problems(in_levels: tuple[int, ...], nodes: tuple[Node, ...], outputs: tuple[str, ...]) -> Iterator[str]:
    """Everything that is wrong with a topology, a sentence each."""
    known = {f"c{level}": level for level in in_levels}
    for node in nodes:
        if not _NAME.fullmatch(node.name) or _BACKBONE_NAME.fullmatch(node.name):
            yield f"node name {node.name!r} is not allowed (letters, digits, _; c3, c4 ... are the backbone's)"
        if node.name in known:
            yield f"two maps are called {node.name!r}"
        if not node.inputs:
            yield f"node {node.name!r} has no inputs"
        if len(set(node.inputs)) < len(node.inputs):
            yield f"node {node.name!r} takes an input twice: {', '.join(node.inputs)}"
        for name in node.inputs:
            if name not in known:
                yield f"node {node.name!r} takes {name!r}, but before it there are only {', '.join(known)}"
        known[node.name] = node.level
    made = {node.name: node for node in nodes}
    if not outputs:
        yield "there are no outputs"
    for name in outputs:
        if name not in made:
            yield f"output {name!r} is no node; there are {', '.join(made) or 'none'}"
    levels = [made[name].level for name in outputs if name in made]
    if any(a >= b for a, b in pairwise(levels)):
        yield f"outputs must be of different levels, finest first, got {dict(zip(outputs, levels, strict=False))}"
    used = set(outputs)
    for node in reversed(nodes):
        if node.name in used:
            used.update(node.inputs)
    idle = [name for name in known if name not in used]
    if idle and all(name in made for name in outputs):
        yield f"no output uses {', '.join(idle)}: use or remove it (a backbone level is removed in backbone.levels)"
