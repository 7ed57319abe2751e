"""The executor: a neck made of any fusion graph, any operator and any resampler.

One fill starts all of its convolutions, those of edges, of blocks, of extra levels and of operators alike, so that an
operator that has weights neither grows nor shrinks what it reads by their start. It is a setting, ``fill``, and not the
topology's: two topologies would else differ in it. What each is published with: :mod:`detfuse.necks.topologies`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detfuse.attention.inserts import NECK_SITES, Site, Sites, chosen_levels, make_insert, only_sites
from detfuse.errors import InputError, UserError
from detfuse.fill import Fill, fill_convolutions
from detfuse.fusion.blocks import BLOCKS, ActivationName, NormName, Style
from detfuse.fusion.graph import FusionGraph, GraphError, Node, checked_scales
from detfuse.fusion.operators import OPERATORS
from detfuse.fusion.resample import DOWN, UP, check_direction
from detfuse.protocols import OperatorFactory, ResampleFactory
from detfuse.ranges import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, checked
from detfuse.structures import FeatureSpec, Size

Topology = Callable[[tuple[int, ...]], FusionGraph]
"""Backbone levels -> graph."""

Watch = Callable[[str, Tensor], Tensor]
"""(node, the map that it fused) -> the map that goes on from there."""


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

    Raises:
        GraphError: if the graph is invalid, names an unknown part, an operator cannot fuse the widths that meet, or a
            factor is none or belongs to no node that fuses; raised before any weight is allocated.
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
        self._style = Style(norm, norm_eps, norm_momentum, activation)
        self._factories = (operator, resample_up, resample_down)
        widths = _Widths(self.graph, in_spec, out_channels, out_channels if width is None else width)
        with torch.device("meta"):  # every part checks its widths before a weight is allocated
            self._make_parts(widths)
        self.edges, self.operators, self.blocks = self._make_parts(widths)
        self.out_spec = FeatureSpec(
            tuple(widths.made[name] for name in self.graph.outputs),
            tuple(2**level for level in self.graph.out_levels),
        )
        self._off: frozenset[tuple[str, str]] = frozenset()
        self._watch: Watch | None = None
        for part in (self.edges, self.operators, self.blocks):
            fill_convolutions(part, fill)
        self.inserts = self._make_inserts(widths, attention)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse ``features`` (B, C_i, H_i, W_i), as ``in_spec`` says, to maps as ``out_spec`` says."""
        levels = self.graph.in_levels
        maps = {f"c{level}": x for level, x in zip(levels, features, strict=True)}
        sizes: dict[int, Size] = {level: _size(x) for level, x in zip(levels, features, strict=True)}
        for node in self.graph.nodes:
            size = sizes.get(node.level) or _size_at(node.level, sizes)
            inputs = [self._along(source, node.name, maps[source], size) for source in node.inputs]
            fused = self.operators[node.name](inputs) if node.name in self.operators else inputs[0]
            fused = self._attend(f"fused_{node.name}", self._scaled(node.name, fused))
            maps[node.name] = self.blocks[node.name](fused) if node.name in self.blocks else fused
            sizes.setdefault(node.level, size)
        return [self._attend(f"output_{name}", maps[name]) for name in self.graph.outputs]

    @contextmanager
    def switched_off(self, source: str, node: str) -> Iterator[None]:
        """Within the context, the edge ``source->node`` carries zeros: what flows through it is what gets lost.

        Raises:
            NoEdgeError: if the graph has no such edge.
        """
        if (source, node) not in self.graph.edges:
            edges = ", ".join(f"{a}->{b}" for a, b in self.graph.edges)
            raise NoEdgeError(f"the graph has no edge {source}->{node}; it has {edges}")
        before, self._off = self._off, self._off | {(source, node)}
        try:
            yield
        finally:
            self._off = before

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

    def _scaled(self, node: str, fused: Tensor) -> Tensor:
        if node in self.scales:
            fused = fused * self.scales[node]
        return fused if self._watch is None else self._watch(node, fused)

    def _along(self, source: str, node: str, x: Tensor, size: Size) -> Tensor:
        key = _key(source, node)
        edge = self.edges[key] if key in self.edges else None  # noqa: SIM401  a ModuleDict has no get
        assert edge is None or isinstance(edge, _Edge)
        y = self._attend(f"lateral_{key}", x if edge is None else edge.project(x))
        y = y if edge is None else edge.resampled(y, size)
        return torch.zeros_like(y) if (source, node) in self._off else y

    def _attend(self, key: str, x: Tensor) -> Tensor:
        y: Tensor = self.inserts[key](x) if key in self.inserts else x
        return y

    def _make_inserts(self, widths: _Widths, attention: Sites | None) -> nn.ModuleDict:
        only_sites(attention, NECK_SITES, "the neck")
        graph = self.graph
        laterals = [(source, node) for source, node in graph.edges if source in widths.backbone]
        fusing = [node for node in graph.nodes if len(node.inputs) > 1]
        # per site: the name, the level and the width of every map
        places: dict[Site, list[tuple[str, int, int]]] = {
            "lateral": [(_key(*edge), graph.level_of[edge[0]], self._projected(*edge, widths)) for edge in laterals],
            "fused": [(node.name, node.level, widths.fused[node.name]) for node in fusing],
            "output": [(name, graph.level_of[name], widths.made[name]) for name in graph.outputs],
        }
        inserts = nn.ModuleDict()
        for site, of_site in places.items():
            chosen = chosen_levels(attention, site, [level for _, level, _ in of_site], "the neck")
            for at, level, channels in of_site:
                if attention and level in chosen:
                    inserts[f"{site}_{at}"] = make_insert(attention, site, at, level, channels)
        return inserts

    def _projected(self, source: str, node: str, widths: _Widths) -> int:
        """Width of a map before it is resampled along an edge."""
        key = _key(source, node)
        edge = self.edges[key] if key in self.edges else None  # noqa: SIM401  a ModuleDict has no get
        return edge.projected if isinstance(edge, _Edge) else widths.made[source]

    def _make_parts(self, widths: _Widths) -> tuple[nn.ModuleDict, nn.ModuleDict, nn.ModuleDict]:
        edges, operators, blocks = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for node in self.graph.nodes:
            arriving = []
            for source in node.inputs:
                edge = self._make_edge(source, node, widths)
                arriving.append(edge.out_channels)
                if not edge.is_identity:
                    edges[_key(source, node.name)] = edge
            fused = widths.fused[node.name]
            with _naming(node):
                if len(node.inputs) > 1:
                    factory = _pinned(OPERATORS, "operator", node.operator, self._factories[0])
                    operators[node.name] = factory(tuple(arriving), fused)
                if node.block is not None:
                    block = _pinned(BLOCKS, "block", node.block)
                    blocks[node.name] = block(fused, widths.made[node.name], self._style)
        return edges, operators, blocks

    def _make_edge(self, source: str, node: Node, widths: _Widths) -> _Edge:
        steps = self.graph.level_of[source] - node.level
        _, up, down = self._factories
        with _naming(node):
            resample = _pinned(UP, "up", node.up, up) if steps > 0 else _pinned(DOWN, "down", node.down, down)
            in_channels, fused = widths.made[source], widths.fused[node.name]
            project = node.project and (source in widths.backbone or in_channels != fused)
            # without a projection the resampler may change the width, and concat may take any
            free = steps == 0 or (not node.project and len(node.inputs) > 1)
            out_channels = fused if project or not free else in_channels
            return _Edge(in_channels, out_channels, steps, resample, project=project, style=self._style)


class _Edge(nn.Module):
    """Projection, norm, resampling, and a norm again where the resampler has weights.

    It has two steps rather than a forward: between them attention may stand.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        steps: int,
        resample: ResampleFactory,
        *,
        project: bool,
        style: Style,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.is_identity = not project and steps == 0
        if project:
            self.project: nn.Module = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=style.bias), style.make_norm(out_channels)
            )
            in_channels = out_channels
        else:
            self.project = nn.Identity()
        self.projected = in_channels  # width between the two steps
        self.resample = resample(in_channels, out_channels, abs(steps)) if steps else None
        if self.resample is not None:
            check_direction(self.resample, up=steps > 0)
        learnt = self.resample is not None and any(True for _ in self.resample.parameters())
        self.norm = style.make_norm(out_channels) if learnt else nn.Identity()

    def resampled(self, x: Tensor, size: Size) -> Tensor:
        """A projected map on the node's grid."""
        return x if self.resample is None else self.norm(self.resample(x, size))


class _Widths:
    """How wide every map is: as it enters its node's block (``fused``) and as it leaves the node (``made``)."""

    def __init__(self, graph: FusionGraph, in_spec: FeatureSpec, out_channels: int, width: int) -> None:
        self.backbone = {f"c{level}": c for level, c in zip(in_spec.levels, in_spec.channels, strict=True)}
        self.made = dict(self.backbone)
        self.fused: dict[str, int] = {}
        for node in graph.nodes:
            if not node.project and len(node.inputs) == 1 and graph.level_of[node.inputs[0]] == node.level:
                made = self.made[node.inputs[0]]  # handed on as it is, SSD's form
            else:
                made = out_channels if node.name in graph.outputs else width
            inner = node.block is not None and node.block != "relu" and node.project
            self.made[node.name] = made
            self.fused[node.name] = width if inner else made


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


def _pinned(parts: Mapping[str, Any], what: str, name: str | None, otherwise: Any = None) -> Any:
    """The part that a node names, or the neck's."""
    if name is None:
        return otherwise
    if name not in parts:
        raise InputError(f"there is no {what} {name!r}; there are {', '.join(parts)}")
    return parts[name]


@contextmanager
def _naming(node: Node) -> Iterator[None]:
    """Say which node a part refused."""
    try:
        yield
    except GraphError:
        raise
    except InputError as error:
        raise GraphError(f"node {node.name!r} (inputs {', '.join(node.inputs)}): {error}") from error


def _key(source: str, node: str) -> str:
    return f"{source}->{node}"


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
