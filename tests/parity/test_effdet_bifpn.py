"""GraphNeck's BiFPN against effdet's, live on the same weights."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from timm.layers import create_pool2d
from torch import nn

from detfuse.fusion.operators import FastNormalized
from detfuse.fusion.resample import MaxPool, Nearest
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.topologies import bifpn
from detfuse.structures import FeatureSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # effdet scripts functions at import, which torch deprecates
    from effdet import get_efficientdet_config
    from effdet.efficientdet import BiFpn

CHANNELS, WIDTH, REPEATS = (12, 20, 24), 16, 2  # effdet does not project a map that has the width already


def copy(target: nn.Module, source: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


def load(ours: GraphNeck, theirs: nn.Module) -> None:
    """Copy effdet's weights, node by node in the order of computation."""
    conv = theirs.resample[str(3)].conv  # P6's projection
    copy(ours.edges["c5->x6"].project[0], conv.conv)
    copy(ours.edges["c5->x6"].project[1], conv.bn)
    theirs_nodes = [node for cell in theirs.cell for node in cell.fnode]
    ours_nodes = [node for node in ours.graph.nodes if len(node.inputs) > 1]
    for a, b in zip(ours_nodes, theirs_nodes, strict=True):
        with torch.no_grad():
            ours.operators[a.name].weight.copy_(b.combine.edge_weights)
        after = b.after_combine.conv
        for k, module in ((1, after.conv_dw), (2, after.conv_pw), (3, after.bn)):
            copy(ours.blocks[a.name][k], module)
        for source in a.inputs:
            if source.startswith("c"):
                conv = b.combine.resample[str(int(source[1:]) - 3)].conv
                copy(ours.edges[f"{source}->{a.name}"].project[0], conv.conv)
                copy(ours.edges[f"{source}->{a.name}"].project[1], conv.bn)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (33, 50)])  # (finest map)
def test_equals_effdet(size: tuple[int, int], training: bool) -> None:
    torch.manual_seed(0)
    config = get_efficientdet_config("efficientdet_d0")
    config.fpn_channels, config.fpn_cell_repeats = WIDTH, REPEATS
    config.image_size = [8 * s for s in size]  # effdet's is bound to an image size
    infos = [{"num_chs": c, "reduction": 2**i} for i, c in zip((3, 4, 5), CHANNELS, strict=True)]
    theirs = BiFpn(config, infos)
    for parameter in theirs.parameters():  # weights and norms away from their neutral start
        nn.init.normal_(parameter, 0.5, 0.3)
    topology = partial(bifpn, extra_levels=2, repeats=REPEATS)
    ours = GraphNeck(
        FeatureSpec(CHANNELS, (8, 16, 32)),
        FastNormalized,
        Nearest,
        MaxPool,
        topology=topology,
        out_channels=WIDTH,
        norm="batch",
        norm_eps=1e-3,
        norm_momentum=0.01,
        activation="silu",
    )
    load(ours, theirs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    sizes = [tuple(-(-s // 2**i) for s in size) for i in range(3)]
    features = [torch.randn(2, c, *s) for c, s in zip(CHANNELS, sizes, strict=True)]
    expected = theirs.train(training)([x.clone() for x in features])
    result = ours.train(training)(features)
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2])
def test_max_pooling_with_tensorflows_padding_equals_timms(steps: int) -> None:
    stride = 2**steps
    theirs = create_pool2d("max", kernel_size=stride + 1, stride=stride, padding="same")
    ours = MaxPool(3, 3, steps, padding="same")
    for size in ((8, 9), (10, 7), (1, 2)):
        x = -torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))  # zeros of a padding would win
        expected = theirs(x)
        assert torch.equal(ours(x, expected.shape[2:]), expected)
