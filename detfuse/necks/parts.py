"""From a graph to its modules: edges, operators and blocks, each with the width of what it reads and makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from detfuse.errors import InputError
from detfuse.fusion.blocks import BLOCKS, Style
from detfuse.fusion.edge import Edge
from detfuse.fusion.graph import FusionGraph, GraphError, Node
from detfuse.fusion.guide import is_guided
from detfuse.fusion.operators import OPERATORS
from detfuse.fusion.resample import DOWN, UP
from detfuse.protocols import OperatorFactory, ResampleFactory
from detfuse.structures import FeatureSpec


class Channels(NamedTuple):
    """How wide a map is: as its node's block reads it, and as it leaves the node."""

    fused: int
    out: int


class Factories(NamedTuple):
    """What builds the parts that no node pins."""

    operator: OperatorFactory
    up: ResampleFactory
    down: ResampleFactory


class GraphParts(NamedTuple):
    """The modules of a graph: edges by their names, operators and blocks by their nodes."""

    edges: nn.ModuleDict
    operators: nn.ModuleDict
    blocks: nn.ModuleDict


def edge_name(source: str, node: str) -> str:
    """``c3->t3``."""
    return f"{source}->{node}"


def channels_of(graph: FusionGraph, in_spec: FeatureSpec, out_channels: int, width: int) -> dict[str, Channels]:
    """Of every map: outputs are as wide as asked for, the others, and what widening blocks read, as the inner maps."""
    found = {name: Channels(c, c) for name, c in zip(graph.backbone, in_spec.channels, strict=True)}
    for node in graph.nodes:
        source = node.inputs[0]
        if not node.project and len(node.inputs) == 1 and graph.level_of[source] == node.level:
            out = found[source].out  # handed on as it is, SSD's form
        else:
            out = out_channels if node.name in graph.outputs else width
        widens = node.project and node.block in BLOCKS and BLOCKS[node.block].changes_width
        found[node.name] = Channels(width if widens else out, out)
    return found


def make_parts(graph: FusionGraph, channels: Mapping[str, Channels], factories: Factories, style: Style) -> GraphParts:
    """Build every part, in the order of the nodes.

    Args:
        graph: what the neck runs.
        channels: of every map, see :func:`channels_of`.
        factories: of the parts that no node pins.
        style: of edges and blocks.

    Raises:
        GraphError: naming the node, for widths that its operator cannot fuse, unknown parts, and guided ones without a
            guide.
    """
    edges, operators, blocks = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
    for node in graph.nodes:
        fused, out = channels[node.name]
        with _naming(node):
            arriving = {source: _make_edge(graph, source, node, channels, factories, style) for source in node.inputs}
            edges.update({edge_name(source, node.name): edge for source, edge in arriving.items()})
            widths = {source: edge.out_channels for source, edge in arriving.items()}
            guided = [(edge.resample, edge.out_channels) for edge in arriving.values()]
            if len(node.inputs) > 1:
                factory = _pinned(OPERATORS, "operator", node.operator, factories.operator)
                operators[node.name] = factory(tuple(widths.values()), fused)
                guided.append((operators[node.name], fused))
            _check_guide(node, graph.guide(node), widths, guided)
            if node.block is not None:
                blocks[node.name] = _pinned(BLOCKS, "block", node.block).make(fused, out, style)
    return GraphParts(edges, operators, blocks)


def _make_edge(
    graph: FusionGraph, source: str, node: Node, channels: Mapping[str, Channels], factories: Factories, style: Style
) -> Edge:
    steps = graph.level_of[source] - node.level
    up, down = (UP, "up", node.up, factories.up), (DOWN, "down", node.down, factories.down)
    resample = _pinned(*(up if steps > 0 else down))
    in_channels, fused = channels[source].out, channels[node.name].fused
    project = node.project and (source in graph.backbone or in_channels != fused)
    # without a projection the resampler may change the width, and concat may take any
    free = steps == 0 or (not node.project and len(node.inputs) > 1)
    out_channels = fused if project or not free else in_channels
    return Edge(in_channels, out_channels, steps, resample, project=project, style=style)


def _check_guide(
    node: Node, leader: str | None, widths: Mapping[str, int], parts: Iterable[tuple[nn.Module | None, int]]
) -> None:
    """Refuse parts that look at the guide where there is none, or one of another width than theirs.

    Args:
        node: where they work.
        leader: its input that guides.
        widths: input -> width in which it arrives.
        parts: with the width of what they make.
    """
    for part, width in parts:
        if not is_guided(part):
            continue
        name = type(part).__name__
        if leader is None:
            raise InputError(
                f"{name} is guided by a map of the node's own level {node.level}, and none of its inputs is of that "
                "level: give it one, or choose another part for it"
            )
        if widths[leader] != width:
            raise InputError(
                f"{name} makes {width} channels and is guided by {leader}, which arrives with {widths[leader]}: let "
                "the edges project (project: true)"
            )


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
