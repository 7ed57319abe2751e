"""The executor: a neck made of any fusion graph, any operator and any resampler.

One fill starts all of its convolutions, those of edges, of blocks, of extra levels and of operators alike, so that an
operator that has weights neither grows nor shrinks what it reads by their start. It is a setting, ``fill``, and not the
topology's: two topologies would else differ in it. What each is published with: :mod:`detfuse.necks.topologies`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detfuse.attention.inserts import NECK_SITES, Site, Sites, chosen_levels, make_insert, only_sites
from detfuse.errors import UserError
from detfuse.fill import Fill, fill_convolutions
from detfuse.fusion.blocks import ActivationName, NormName, Style
from detfuse.fusion.edge import Edge
from detfuse.fusion.graph import FusionGraph, GraphError, Node, checked_scales
from detfuse.fusion.guide import with_guide
from detfuse.necks.parts import Channels, Factories, channels_of, edge_name, make_parts
from detfuse.protocols import OperatorFactory, ResampleFactory, Watch
from detfuse.ranges import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, checked
from detfuse.structures import FeatureSpec, Size

Topology = Callable[[tuple[int, ...]], FusionGraph]
"""Backbone levels -> graph."""


class NoEdgeError(UserError, KeyError):
    """An edge that the graph does not have."""


@checked
class GraphNeck(nn.Module):
    """Runs a fusion graph.

    An edge ``source->node`` projects (1x1, where widths differ or the source is a backbone map) and resamples to the
    size of the first map seen at the node's level; the node fuses, multiplies by its fixed factor if it has one, and
    applies its block. Attention may stand on the edges from the backbone (``lateral``), on what a node fused
    (``fused``), and on what the head reads (``output``).

    Args:
        in_spec: what the backbone delivers.
        operator: fuses the inputs of every node with at least two, unless the node pins another.
        resample_up: brings coarser maps to a node's grid.
        resample_down: brings finer maps to a node's grid.
        attention: what stands at the sites ``lateral``, ``fused`` and ``output``.
        topology: makes the graph from the backbone's levels; None if ``nodes`` says it.
        nodes: the graph, node by node (see :class:`detfuse.fusion.graph.Node`), with ``outputs``.
        outputs: names of the nodes that the head sees, finest first.
        scales: node with two inputs or more -> factor on what its operator makes, before attention and block; a
            constant, not a weight.
        out_channels: width of the outputs.
        width: width of the inner maps; None is ``out_channels``.
        norm: after every convolution of an edge or a block.
        norm_eps: epsilon of the norm.
        norm_momentum: of the batch norm's running statistics.
        activation: in every block.
        fill: the start of every convolution but the attention's, see :mod:`detfuse.fill`.

    Attributes:
        edges: every edge by its name: ``neck.edges["c3->t3"]`` is all that happens on the way from c3 to t3, called as
            ``edge(map, size)``, so that a forward hook on it sees, changes or replaces what arrives.
        operators: node with two inputs or more -> its operator.
        blocks: node with a block -> the block.
        inserts: attention on nodes (``fused_t3``) and outputs (``output_p3``); that of an edge is the edge's.

    Raises:
        GraphError: if the graph is invalid, names an unknown part, an operator cannot fuse the widths that meet, a part
            finds no map to be guided by, or a factor is none or belongs to no node that fuses; raised before any weight
            is allocated.
        ValueError: if there is no such site or level for attention, or no such fill.
    """

    def __init__(
        self,
        in_spec: FeatureSpec,
        operator: OperatorFactory,
        resample_up: ResampleFactory,
        resample_down: ResampleFactory,
        attention: Sites | None = None,
        *,
        topology: Topology | None = None,
        nodes: Sequence[Mapping[str, Any]] | None = None,
        outputs: Sequence[str] | None = None,
        scales: Mapping[str, PositiveFloat] | None = None,
        out_channels: PositiveInt = 64,
        width: PositiveInt | None = None,
        norm: NormName = "none",
        norm_eps: NonNegativeFloat = 1e-5,
        norm_momentum: Fraction = 0.1,
        activation: ActivationName = "none",
        fill: Fill = "fan_in",
    ) -> None:
        super().__init__()
        self.in_spec = in_spec
        self.graph = _make_graph(in_spec, topology, nodes, outputs)
        self.scales = checked_scales(self.graph, scales or {})
        self._guides = {node.name: self.graph.guide(node) for node in self.graph.nodes}
        style = Style(norm, norm_eps, norm_momentum, activation)
        factories = Factories(operator, resample_up, resample_down)
        channels = channels_of(self.graph, in_spec, out_channels, out_channels if width is None else width)
        with torch.device("meta"):  # every part checks its widths before a weight is allocated
            make_parts(self.graph, channels, factories, style)
        self.edges, self.operators, self.blocks = make_parts(self.graph, channels, factories, style)
        self.out_spec = FeatureSpec(
            tuple(channels[name].out for name in self.graph.outputs),
            tuple(2**level for level in self.graph.out_levels),
        )
        self._watch: Watch | None = None
        for part in (self.edges, self.operators, self.blocks):
            fill_convolutions(part, fill)
        self.inserts = self._insert(attention, channels)
        self.register_load_state_dict_pre_hook(_take_former_names)  # type: ignore[no-untyped-call]  # torch's

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse ``features`` (B, C_i, H_i, W_i), as ``in_spec`` says, to maps as ``out_spec`` says."""
        levels = self.graph.in_levels
        maps = dict(zip(self.graph.backbone, features, strict=True))
        sizes: dict[int, Size] = {level: _size(x) for level, x in zip(levels, features, strict=True)}
        for node in self.graph.nodes:
            size = sizes.get(node.level) or _size_at(node.level, sizes)
            fused = self._fuse(node, maps, size)
            fused = self._attend(f"fused_{node.name}", self._scaled(node.name, fused))
            maps[node.name] = self.blocks[node.name](fused) if node.name in self.blocks else fused
            sizes.setdefault(node.level, size)
        return [self._attend(f"output_{name}", maps[name]) for name in self.graph.outputs]

    def describe(self) -> str:
        """``pyramid fusion, Add``: the kind of the graph, and the operators that fuse in it, pinned ones too."""
        operators = dict.fromkeys(type(operator).__name__ for operator in self.operators.values())
        return ", ".join([f"{self.graph.kind} fusion", *operators])

    @contextmanager
    def switched_off(self, source: str, node: str) -> Iterator[None]:
        """Within the context, the edge ``source->node`` carries zeros: what flows through it is what gets lost.

        Raises:
            NoEdgeError: if the graph has no such edge.
        """
        if (source, node) not in self.graph.edges:
            raise NoEdgeError(f"the graph has no edge {edge_name(source, node)}; it has {', '.join(self.edges)}")
        hook = self.edges[edge_name(source, node)].register_forward_hook(lambda _edge, _given, y: torch.zeros_like(y))
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        """Within the context, ``watch`` sees what every node fused, in order of computation, and may change it.

        It sees the map after the node's factor, before attention and block; of a node with one input it sees that.
        """
        before, self._watch = self._watch, watch
        try:
            yield
        finally:
            self._watch = before

    @staticmethod
    def former_name(name: str) -> str:
        """The name that a parameter had before the attention on an edge became the edge's own.

        It starts by that name (:mod:`detfuse.initialisation`), and checkpoints that have it load.
        """
        return re.sub(r"^edges\.([^.]+)\.insert\.", r"inserts.lateral_\1.", name)

    def _fuse(self, node: Node, maps: Mapping[str, Tensor], size: Size) -> Tensor:
        """What the node makes of its inputs; the one that guides the others arrives first."""
        leader = self._guides[node.name]
        guide = None if leader is None else self._along(leader, node, maps, size)
        inputs = [
            self._along(source, node, maps, size, guide) if guide is None or source != leader else guide
            for source in node.inputs
        ]
        return with_guide(self.operators[node.name], guide, inputs) if len(inputs) > 1 else inputs[0]

    def _along(
        self, source: str, node: Node, maps: Mapping[str, Tensor], size: Size, guide: Tensor | None = None
    ) -> Tensor:
        return with_guide(self.edges[edge_name(source, node.name)], guide, maps[source], size)

    def _scaled(self, node: str, fused: Tensor) -> Tensor:
        if node in self.scales:
            fused = fused * self.scales[node]
        return fused if self._watch is None else self._watch(node, fused)

    def _attend(self, key: str, x: Tensor) -> Tensor:
        y: Tensor = self.inserts[key](x) if key in self.inserts else x
        return y

    def _insert(self, attention: Sites | None, channels: Mapping[str, Channels]) -> nn.ModuleDict:
        """Put attention onto the edges from the backbone; return that on nodes and outputs."""
        only_sites(attention, NECK_SITES, "the neck")
        graph = self.graph
        laterals = [(source, node) for source, node in graph.edges if source in graph.backbone]
        fusing = [node for node in graph.nodes if len(node.inputs) > 1]
        # per site: the name, the level and the width of every map
        places: dict[Site, list[tuple[str, int, int]]] = {
            "lateral": [(edge_name(*edge), graph.level_of[edge[0]], self._edge(*edge).projected) for edge in laterals],
            "fused": [(node.name, node.level, channels[node.name].fused) for node in fusing],
            "output": [(name, graph.level_of[name], channels[name].out) for name in graph.outputs],
        }
        inserts = nn.ModuleDict()
        for site, of_site in places.items():
            chosen = chosen_levels(attention, site, [level for _, level, _ in of_site], "the neck")
            for at, level, width in of_site:
                if attention and level in chosen:
                    insert = make_insert(attention, site, at, level, width)
                    if site == "lateral":
                        self.edges[at].insert = insert
                    else:
                        inserts[f"{site}_{at}"] = insert
        return inserts

    def _edge(self, source: str, node: str) -> Edge:
        edge = self.edges[edge_name(source, node)]
        assert isinstance(edge, Edge)
        return edge


def _take_former_names(neck: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a checkpoint of before load: see :meth:`GraphNeck.former_name`."""
    for name in neck.state_dict(keep_vars=True):
        former = prefix + GraphNeck.former_name(name)
        if former in state:
            state[prefix + name] = state.pop(former)


def _make_graph(
    in_spec: FeatureSpec,
    topology: Topology | None,
    nodes: Sequence[Mapping[str, Any]] | None,
    outputs: Sequence[str] | None,
) -> FusionGraph:
    if topology is not None:
        if nodes is not None or outputs is not None:
            raise GraphError(
                "give a topology or nodes and outputs, not both (topology: null switches the topology off)"
            )
        return topology(in_spec.levels)
    if nodes is None or outputs is None:
        raise GraphError("a graph neck needs a topology, or nodes together with outputs")
    return FusionGraph.from_nodes(in_spec.levels, nodes, outputs)


def _size(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def _size_at(level: int, sizes: Mapping[int, Size]) -> Size:
    """Size of a level that has no map yet: the nearest known one, halved and rounded up, or doubled."""
    nearest = min(sizes, key=lambda known: abs(known - level))
    height, width = sizes[nearest]
    if nearest > level:
        factor = 2 ** (nearest - level)
        return height * factor, width * factor
    factor = 2 ** (level - nearest)
    return (height + factor - 1) // factor, (width + factor - 1) // factor
