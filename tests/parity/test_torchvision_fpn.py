"""GraphNeck's FPN against torchvision's, live: bit for bit, odd sizes and extra levels too."""

from __future__ import annotations

from functools import partial
from typing import Literal

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from detfuse.fusion.operators import Add
from detfuse.fusion.resample import Nearest, StridedConv
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.topologies import fpn
from detfuse.structures import FeatureSpec

CHANNELS = (6, 10, 14)


def load(ours: GraphNeck, theirs: FeaturePyramidNetwork, extra: str, extra_levels: int) -> None:
    names = {}
    for i, level in enumerate((3, 4, 5)):
        names[f"edges.c{level}->t{level}.project.0"] = f"inner_blocks.{i}.0"
        names[f"blocks.p{level}.0"] = f"layer_blocks.{i}.0"
    if extra != "max_pool" and extra_levels:
        source = "c5" if extra == "from_c" else "p5"
        names[f"edges.{source}->p6.resample.stages.0"] = "extra_blocks.p6"
        names["edges.r6->p7.resample.stages.0"] = "extra_blocks.p7"
    state = theirs.state_dict()
    ours.load_state_dict({f"{a}.{k}": state[f"{b}.{k}"] for a, b in names.items() for k in ("weight", "bias")})


@pytest.mark.parametrize(
    ("extra", "extra_levels", "block"),
    [
        ("from_p", 0, None),
        ("max_pool", 1, LastLevelMaxPool()),
        ("from_c", 2, LastLevelP6P7(CHANNELS[-1], 8)),
        ("from_p", 2, LastLevelP6P7(8, 8)),
    ],
)
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_equals_torchvision_exactly(
    extra: Literal["max_pool", "from_c", "from_p"],
    extra_levels: int,
    block: ExtraFPNBlock | None,
    size: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    theirs = FeaturePyramidNetwork(list(CHANNELS), 8, block)
    topology = partial(fpn, extra=extra, extra_levels=extra_levels)
    ours = GraphNeck(FeatureSpec(CHANNELS, (8, 16, 32)), Add, Nearest, StridedConv, topology=topology, out_channels=8)
    load(ours, theirs, extra, extra_levels)
    sizes = [tuple(-(-s // 2**i) for s in size) for i in range(3)]
    features = [torch.randn(2, c, *s) for c, s in zip(CHANNELS, sizes, strict=True)]
    expected = theirs({str(i): x for i, x in enumerate(features)})
    result = ours(features)
    assert len(result) == len(expected) == 3 + extra_levels
    for a, b in zip(result, expected.values(), strict=True):
        assert torch.equal(a, b)
