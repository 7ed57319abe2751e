"""Same weights, features and targets as torchvision's Faster R-CNN, v1 and v2: same losses, gradients, detections."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_torchvision_heads import BOXES, CLASSES, LABELS, RATIOS, SIZE, batch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import (
    FasterRCNN,
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from detfuse.heads.faster_rcnn import FasterRCNNHead
from detfuse.ops.postprocess import Nms
from detfuse.structures import FeatureSpec

WIDTH, CHANNELS = 16, 24
SPEC = FeatureSpec(channels=(WIDTH,) * 4, strides=(8, 16, 32, 64))  # the coarsest proposes, but is not pooled from
VARIANTS = pytest.mark.parametrize("version", [1, 2])


class Backbone(nn.Module):
    out_channels = WIDTH


def features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(3, WIDTH, SIZE[0] // s, SIZE[1] // s, generator=generator).requires_grad_() for s in SPEC.strides
    ]


def pair(version: int) -> tuple[Any, FasterRCNNHead]:
    """Both with the same weights, larger than at the start so that something is detected."""
    second: nn.Module = TwoMLPHead(WIDTH * 49, CHANNELS)
    if version == 2:
        second = FastRCNNConvFCHead((WIDTH, 7, 7), [WIDTH] * 4, [CHANNELS], norm_layer=nn.BatchNorm2d)
    reference: Any = FasterRCNN(
        Backbone(),
        rpn_anchor_generator=AnchorGenerator(tuple((4 * s,) for s in SPEC.strides), (RATIOS,) * 4),
        rpn_head=RPNHead(WIDTH, len(RATIOS), conv_depth=version),
        rpn_pre_nms_top_n_train=90,
        rpn_post_nms_top_n_train=80,
        rpn_pre_nms_top_n_test=70,
        rpn_post_nms_top_n_test=60,
        rpn_batch_size_per_image=40,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, 2),
        box_head=second,
        box_predictor=FastRCNNPredictor(CHANNELS, CLASSES + 1),
        box_batch_size_per_image=32,
    )
    variant = {"rpn_convs": 2, "box_convs": 4, "box_fcs": 1, "box_norm": "batch"} if version == 2 else {}
    head = FasterRCNNHead(
        SPEC,
        CLASSES,
        aspect_ratios=RATIOS,
        roi_levels=[3, 4, 5],
        train_candidates_per_level=90,
        train_proposals=80,
        candidates_per_level=70,
        proposals=60,
        rpn_samples=40,
        samples=32,
        box_channels=CHANNELS,
        crowd="background",
        **variant,  # type: ignore[arg-type]  # of several types
    )
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for ours, theirs in parameters(head, reference):
            theirs.copy_(
                torch.randn(theirs.shape, generator=generator) * 0.1 + (theirs.ndim == 1 and theirs.min() == 1)
            )
            ours.copy_(theirs[-len(ours) :])
    return reference, head


def parameters(head: FasterRCNNHead, reference: Any) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Ours and theirs, in pairs; theirs may have more rows at the beginning, of the background's box."""
    theirs = [reference.rpn.head, reference.roi_heads.box_head, reference.roi_heads.box_predictor]
    flat = [parameter for module in theirs for parameter in module.parameters()]
    assert len(flat) == len(list(head.parameters()))
    return list(zip(head.parameters(), flat, strict=True))


def run(reference: Any, maps: list[Tensor], training: bool) -> Any:
    """torchvision's two stages."""
    reference.train(training)
    named = {str(i): x for i, x in enumerate(maps)}
    targets = [{"boxes": b, "labels": c + 1} for b, c in zip(BOXES, LABELS, strict=True)] if training else None
    proposals, first = reference.rpn(ImageList(torch.zeros(3, 3, *SIZE), [SIZE] * 3), named, targets)
    found, second = reference.roi_heads(named, proposals, [SIZE] * 3, targets)
    return {**first, **second} if training else found


@pytest.fixture
def first_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both draw the first of the positives and of the negatives."""
    monkeypatch.setattr(torch, "randperm", lambda count, device: torch.arange(count, device=device))
    monkeypatch.setattr(torch, "rand", lambda shape, device: torch.linspace(1, 0.1, shape[1]).expand(shape))


@VARIANTS
def test_losses_and_gradients_equal_torchvision(version: int, first_come: None) -> None:
    reference, head = pair(version)
    theirs, ours = features(), features()
    expected, losses = run(reference, theirs, training=True), head.loss(head(ours), batch())
    names = {
        "loss_rpn_cls": "loss_objectness",
        "loss_rpn_box": "loss_rpn_box_reg",
        "loss_cls": "loss_classifier",
        "loss_box": "loss_box_reg",
    }
    for mine, their in names.items():
        assert expected[their] > 1e-3
        torch.testing.assert_close(losses[mine], expected[their], rtol=1e-5, atol=0)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for mine, their in parameters(head, reference):
        assert mine.grad is not None
        assert their.grad is not None
        assert their.grad.any()
        torch.testing.assert_close(mine.grad, their.grad[-len(mine) :], rtol=1e-4, atol=1e-6)
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, their.grad, rtol=1e-4, atol=1e-6)
    for mine, their in zip(statistics(head), statistics(reference.roi_heads), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-4, atol=1e-6)


def statistics(module: nn.Module) -> list[Tensor]:
    """Running means and variances."""
    return [buffer for name, buffer in module.named_buffers() if "running" in name]


@VARIANTS
def test_detections_equal_torchvision(version: int) -> None:
    reference, head = pair(version)
    combine = Nms(iou_threshold=0.5, max_detections=100)
    with torch.no_grad():
        expected = run(reference, features(), training=False)
        outputs = head.eval()(features())
        found = [combine(*image) for image in zip(*head.candidates(outputs, batch().image_sizes), strict=True)]
    for mine, their in zip(found, expected, strict=True):
        assert len(mine.scores) == len(their["scores"]) > 20
        torch.testing.assert_close(mine.scores, their["scores"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mine.boxes, their["boxes"], rtol=0, atol=1e-3)
        assert torch.equal(mine.labels + 1, their["labels"])
        assert mine.levels.max() <= 2
