"""Parts that look at the map of the node's own level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detfuse.attention.inserts import AttentionChoice
from detfuse.fusion.graph import GraphError
from detfuse.fusion.operators import Add, Concat
from detfuse.fusion.resample import SAPA, Nearest, StridedConv
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.topologies import early_pyramid, fpn, pafpn
from detfuse.structures import FeatureSpec

SPEC = FeatureSpec((4, 6, 10), (8, 16, 32))


class FromGuide(nn.Module):
    """A private resampler for both directions that hands the guide on."""

    guided = True

    def __init__(self, in_channels: int, out_channels: int, steps: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, size: tuple[int, int], guide: Tensor) -> Tensor:
        assert guide.shape[-2:] == size
        return guide


class OnlyGuide(nn.Module):
    """A private operator likewise."""

    guided = True

    def __init__(self, in_channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()

    def forward(self, maps: Sequence[Tensor], guide: Tensor) -> Tensor:
        assert sum(x is guide for x in maps) == 1
        return 3 * guide


class Plus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((9, 14), (5, 7), (3, 4))
    return [torch.randn(2, c, *s, generator=generator) for c, s in zip(SPEC.channels, sizes, strict=True)]


def neck(operator: Any = Add, up: Any = Nearest, down: Any = StridedConv, **more: Any) -> GraphNeck:
    torch.manual_seed(0)
    return GraphNeck(SPEC, operator, up, down, **{"topology": fpn, "out_channels": 8, **more})


def fused(part: GraphNeck) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with part.watched(lambda node, x: found.setdefault(node, x)):
        part(features())
    return found


def arriving(part: GraphNeck, edge: str, x: Tensor) -> Tensor:
    made: Tensor = part.edges[edge](x, x.shape[-2:])
    return made


def test_a_guide_is_the_nodes_own_map_as_it_arrives_there() -> None:
    part = neck(up=FromGuide, attention={"lateral": AttentionChoice(lambda channels: Plus())})
    found, maps = fused(part), features()
    for level, x in ((3, maps[0]), (4, maps[1])):
        torch.testing.assert_close(found[f"t{level}"], 2 * arriving(part, f"c{level}->t{level}", x))


def test_down_too_and_whatever_stands_first() -> None:
    nodes = [
        {"name": "n4", "level": 4, "inputs": ["c3", "c4"]},
        {"name": "p4", "level": 4, "inputs": ["c5", "n4"]},
    ]
    part = neck(up=FromGuide, down=FromGuide, topology=None, nodes=nodes, outputs=["p4"])
    lateral = arriving(part, "c4->n4", features()[1])
    torch.testing.assert_close(fused(part)["p4"], 4 * lateral)
    assert list(part.edges) == ["c3->n4", "c4->n4", "c5->p4", "n4->p4"]


def test_an_operator_may_look_at_it() -> None:
    part = neck(OnlyGuide)
    found, maps = fused(part), features()
    torch.testing.assert_close(found["t3"], 3 * arriving(part, "c3->t3", maps[0]))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"up": SAPA, "topology": None, "nodes": [{"name": "p3", "level": 3, "inputs": ["c4", "c5"]}]},
            r"node 'p3' \(inputs c4, c5\): SAPA is guided by a map of the node's own level 3, and none of its inputs",
        ),
        ({"down": FromGuide, "topology": early_pyramid}, r"node 'p4' \(inputs p3\): FromGuide is guided by a map"),
        (
            {"operator": OnlyGuide, "topology": None, "nodes": [{"name": "p3", "level": 3, "inputs": ["c4", "c5"]}]},
            r"node 'p3'.*OnlyGuide is guided",
        ),
        (
            {
                "operator": Concat,
                "up": SAPA,
                "topology": None,
                "nodes": [{"name": "p3", "level": 3, "inputs": ["c3", "c4"], "project": False}],
            },
            r"node 'p3'.*SAPA makes 6 channels and is guided by c3, which arrives with 4: let the edges project",
        ),
    ],
)
def test_where_there_is_no_guide_a_part_is_refused(parts: Any, message: str) -> None:
    nodes = parts.get("nodes")
    spec = FeatureSpec(SPEC.channels[1:], SPEC.strides[1:]) if nodes and "c3" not in nodes[0]["inputs"] else SPEC
    spec = FeatureSpec(SPEC.channels[:2], SPEC.strides[:2]) if nodes and "c5" not in nodes[0]["inputs"] else spec
    given = {"operator": Add, "resample_up": parts.pop("up", Nearest), "resample_down": parts.pop("down", StridedConv)}
    outputs = ["p3"] if nodes else None
    with pytest.raises(GraphError, match=message):
        GraphNeck(spec, **{**given, **parts}, outputs=outputs)


def test_what_nobody_resamples_needs_no_guide() -> None:
    assert neck(up=SAPA, topology=pafpn).out_spec == neck(topology=pafpn).out_spec  # P6 and P7 have one input each
    one = [{"name": "p3", "level": 3, "inputs": ["c3"]}]
    GraphNeck(FeatureSpec((4,), (8,)), OnlyGuide, SAPA, StridedConv, nodes=one, outputs=["p3"])
