"""Freshly built parts start as the published ones: by the spread of every weight, which copied weights cannot show."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
from test_torchvision_fpn import load as load_torchvision
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSHead as TheirFCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead as TheirRetinaNetHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detfuse.fusion.operators import Add, FastNormalized
from detfuse.fusion.resample import MaxPool, Nearest, StridedConv
from detfuse.heads.efficientdet import EfficientDetHead
from detfuse.heads.faster_rcnn import FasterRCNNHead
from detfuse.heads.fcos import FCOSHead
from detfuse.heads.mscnn import MSCNNHead
from detfuse.heads.retinanet import RetinaNetHead
from detfuse.heads.ssd import SSDHead
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.mscnn_trunk import MSCNNTrunk
from detfuse.necks.ssd_extras import SSDExtras
from detfuse.necks.topologies import bifpn, fpn
from detfuse.structures import FeatureSpec
from detfuse.weights.effdet import EFFDET

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # effdet scripts functions at import, which torch deprecates
    from effdet import EfficientDet, get_efficientdet_config
    from effdet.efficientdet import HeadNet
    from effdet.efficientdet import _init_weight as init_weight
    from test_effdet_bifpn import load as load_effdet

SPEC = FeatureSpec((128, 256, 512), (8, 16, 32))  # resnet10t's
WIDTH, CLASSES, ANCHORS = 64, 20, 9
ENOUGH = 8000  # the standard deviation of so many numbers is known to 1 %


def numbers(parts: Iterable[nn.Module], *, by_shape: bool = False) -> dict[str, Tensor]:
    """All numbers of equal parts, by the parameter's name, or by its shape where it is a convolution's weight."""
    found: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, parameter in part.named_parameters():
            key = str(tuple(parameter.shape)) if by_shape and parameter.ndim == 4 else name
            found.setdefault(key, []).append(parameter.detach().flatten())
    return {key: torch.cat(of_key) for key, of_key in found.items()}


def assert_same_start(ours: dict[str, Tensor], published: dict[str, Tensor]) -> None:
    """The same constants; of random numbers the same spread (3 %) and shape: uniform ones end at 1.73 of it."""
    assert ours.keys() == published.keys()
    for name, theirs in published.items():
        if theirs.unique().numel() == 1:
            assert torch.equal(ours[name], theirs), name
            continue
        assert len(theirs) >= ENOUGH, f"{name}: {len(theirs)} numbers are too few to tell their spread"
        spread, wanted = ours[name].std().item(), theirs.std().item()
        assert spread == pytest.approx(wanted, rel=0.03), name
        reach, wanted_reach = ours[name].abs().max().item() / spread, theirs.abs().max().item() / wanted
        assert reach == pytest.approx(wanted_reach, rel=0.03 if wanted_reach < 2 else 0.25), name


@pytest.mark.parametrize("extra", ["from_c", "from_p"])
def test_fpn_and_the_levels_above_start_as_torchvisions(extra: Any) -> None:
    torch.manual_seed(0)
    theirs = FeaturePyramidNetwork(
        list(SPEC.channels), WIDTH, LastLevelP6P7(SPEC.channels[-1] if extra == "from_c" else WIDTH, WIDTH)
    )
    ours, published = (
        GraphNeck(SPEC, Add, Nearest, StridedConv, topology=partial(fpn, extra=extra), out_channels=WIDTH)
        for _ in range(2)
    )
    load_torchvision(published, theirs, extra, 2)
    assert_same_start(numbers([ours]), numbers([published]))


def test_bifpn_starts_as_effdets() -> None:
    torch.manual_seed(0)
    config = get_efficientdet_config("efficientdet_d0")
    config.backbone_name, config.backbone_args = "resnet10t", {}
    config.fpn_channels, config.fpn_cell_repeats, config.image_size = WIDTH, 2, [256, 256]
    theirs = EfficientDet(config, pretrained_backbone=False).fpn
    ours, published = (
        GraphNeck(
            SPEC,
            FastNormalized,
            Nearest,
            MaxPool,
            topology=partial(bifpn, repeats=2),
            out_channels=WIDTH,
            norm="batch",
            fill="fan_avg",
        )
        for _ in range(2)
    )
    load_effdet(published, theirs)
    # a depthwise kernel alone has too few numbers
    assert_same_start(numbers([ours], by_shape=True), numbers([published], by_shape=True))


def test_efficientdets_head_starts_as_effdets() -> None:
    torch.manual_seed(0)
    config = get_efficientdet_config("efficientdet_d0")
    spec = FeatureSpec((config.fpn_channels,) * 5, (8, 16, 32, 64, 128))

    def published() -> EfficientDetHead:
        given = {}
        for name, outputs in (("class_net", CLASSES), ("box_net", 4)):
            net = HeadNet(config, outputs)
            for inner, module in net.named_modules(prefix=name):
                init_weight(module, inner)
            given |= {f"{name}.{key}": value for key, value in net.state_dict().items()}
        head = EfficientDetHead(spec, CLASSES)
        state, unknown = EFFDET["efficientdet_d0"].table.to_ours(given)
        assert not unknown
        head.load_state_dict({key.removeprefix("head."): value for key, value in state.items()})
        return head

    ours = numbers((EfficientDetHead(spec, CLASSES) for _ in range(4)), by_shape=True)
    assert_same_start(ours, numbers((published() for _ in range(4)), by_shape=True))


def renamed(values: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    result = {}
    for name, value in values.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        result[name] = value
    return result


def test_retinanets_head_starts_as_torchvisions() -> None:
    torch.manual_seed(0)
    spec = FeatureSpec((WIDTH,) * 3, (8, 16, 32))
    ours = numbers(RetinaNetHead(spec, CLASSES) for _ in range(4))
    theirs = numbers(TheirRetinaNetHead(WIDTH, ANCHORS, CLASSES) for _ in range(4))
    names = {"classification_head.cls_logits": "cls_logits", "regression_head.bbox_reg": "box_deltas"}
    names |= {"classification_head.conv": "cls_tower", "regression_head.conv": "box_tower", ".0.weight": ".conv.weight"}
    assert_same_start(ours, renamed(theirs, {**names, ".0.bias": ".conv.bias"}))


def test_fcoss_head_starts_as_torchvisions() -> None:
    torch.manual_seed(0)
    spec = FeatureSpec((WIDTH,) * 3, (8, 16, 32))
    ours = numbers(FCOSHead(spec, CLASSES, level_scales=False) for _ in range(16))
    theirs = numbers(TheirFCOSHead(WIDTH, 1, CLASSES) for _ in range(16))
    names = {"classification_head.cls_logits": "cls_logits"}
    names |= {"regression_head.bbox_reg": "box_distances", "regression_head.bbox_ctrness": "box_centerness"}
    names |= {"classification_head.conv": "cls_tower", "regression_head.conv": "box_tower"}
    for i in range(4):
        names |= {f"tower.{3 * i}.": f"tower.{i}.conv.", f"tower.{3 * i + 1}.": f"tower.{i}.norm."}
    assert_same_start(ours, renamed(theirs, names))


def test_ssds_levels_and_predictors_start_by_caffes_fan_in() -> None:
    torch.manual_seed(0)
    neck = SSDExtras(FeatureSpec((WIDTH, 128), (8, 16)), fc_channels=256, extra_channels=(256, 128, 128, 128))
    head = SSDHead(neck.out_spec, CLASSES)
    weights = {name: p.detach() for part in (neck, head) for name, p in part.named_parameters() if p.ndim == 4}
    biases = [p for part in (neck, head) for name, p in part.named_parameters() if name.endswith("bias")]
    assert len(weights) == len(biases) == 2 + 8 + 12
    assert not any(bias.any() for bias in biases)
    for name, weight in weights.items():
        fan_in = weight[0].numel()
        assert weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.03), name
        assert weight.abs().max().item() == pytest.approx(math.sqrt(3 / fan_in), rel=0.01), name


def test_faster_rcnns_layers_start_as_published() -> None:
    """Gaussian proposals and predictors (Fast and Faster R-CNN), Caffe2's fills of what lies between (Detectron)."""
    torch.manual_seed(0)
    head = FasterRCNNHead(FeatureSpec((WIDTH,) * 3, (8, 16, 32)), CLASSES, box_convs=1, box_channels=512)
    gaussians = {"rpn.": 0.01, "cls_logits.": 0.01, "box_deltas.": 0.001, "box_head.convs.": math.sqrt(2 / (9 * WIDTH))}
    for name, parameter in head.named_parameters():
        if parameter.ndim == 1:
            assert not parameter.any(), name
            continue
        values, fan_in = parameter.detach().flatten(), parameter.shape[1]
        wanted = next((std for part, std in gaussians.items() if name.startswith(part)), 1 / math.sqrt(fan_in))
        assert values.std().item() == pytest.approx(wanted, rel=0.03 if len(values) >= ENOUGH else 0.2), name
        if name.startswith("box_head.fcs."):
            assert values.abs().max().item() == pytest.approx(math.sqrt(3) * wanted, rel=0.01), name


def test_ms_cnns_layers_start_as_the_authors_configurations_say() -> None:
    torch.manual_seed(0)
    spec = FeatureSpec((WIDTH,) * 2, (8, 16))
    head = MSCNNHead(spec, CLASSES, box_channels=512)
    gaussians = {
        "conv6.": 0.01,
        "proposer.buffer.": 0.01,
        "proposer.branches.": 0.001,
        "box_head.0.": 0.01,
        "box_head.3.": 0.001,
        "cls_logits.": 0.01,
        "box_deltas.": 0.001,
    }
    for name, parameter in [*head.named_parameters(), *MSCNNTrunk(spec).conv6.named_parameters(prefix="conv6")]:
        if parameter.ndim == 1:
            assert not parameter.any(), name
        elif name != "regions.deconv.weight":
            (std,) = (value for prefix, value in gaussians.items() if name.startswith(prefix))
            assert parameter.std().item() == pytest.approx(std, rel=0.03), name
