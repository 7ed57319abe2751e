"""Same weights, features and targets as torchvision's RetinaNet and FCOS: same anchors, matches, losses, candidates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from detfuse.heads.fcos import FCOSHead
from detfuse.heads.retinanet import RetinaNetHead
from detfuse.structures import Batch, FeatureSpec, Targets
from detfuse.weights.torchvision import PUBLISHED

WIDTH, CLASSES, SIZE = 32, 4, (128, 192)
NUM_GROUPS = 4  # torchvision's 32 groups need 256 channels to be ours
SPEC = FeatureSpec(channels=(WIDTH,) * 3, strides=(8, 16, 32))
RATIOS = (0.25, 1.0, 4.0)  # with these and one scale no anchor needs rounding, so torchvision's are equal
BOXES = [
    torch.tensor(
        [[10.3, 12.1, 60.7, 88.2], [30.2, 20.9, 55.1, 41.3], [100.5, 3.2, 108.9, 9.7], [0.4, 0.6, 190.3, 126.9]]
    ),
    torch.zeros(0, 4),
    torch.tensor([[120.6, 60.2, 187.1, 120.5]]),
]
LABELS = [torch.tensor([0, 3, 1, 2]), torch.zeros(0, dtype=torch.int64), torch.tensor([3])]
CROWD = torch.tensor([0.0, 0.0, 150.0, 128.0])  # in every image; torchvision knows none, so it is background


class Backbone(nn.Module):
    out_channels = WIDTH


def features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(3, WIDTH, SIZE[0] // s, SIZE[1] // s, generator=generator) for s in SPEC.strides]


def batch() -> Batch:
    boxes, labels, valid = (
        torch.zeros(3, 8, 4),
        torch.zeros(3, 8, dtype=torch.int64),
        torch.zeros(3, 8, dtype=torch.bool),
    )
    for i, (of_image, classes) in enumerate(zip(BOXES, LABELS, strict=True)):
        boxes[i, : len(of_image)], labels[i, : len(of_image)], valid[i, : len(of_image)] = of_image, classes, True
    sizes = torch.tensor([SIZE] * 3)
    images = torch.zeros(3, 3, *SIZE, dtype=torch.uint8)
    ignore = torch.zeros_like(valid)
    boxes[:, 7], ignore[:, 7] = CROWD, True
    targets = Targets(boxes, labels, valid, ignore)
    return Batch(images, sizes, sizes, torch.ones(3, 2), torch.arange(3), targets)


def copy_weights(reference: nn.Module, model: str, head: nn.Module) -> None:
    """Give both heads the same weights, larger than at the start so that something is detected."""
    generator = torch.Generator().manual_seed(7)
    for name, value in reference.head.state_dict().items():
        value.copy_(torch.randn(value.shape, generator=generator) * 0.08 + ("norm" in name))
    theirs = {f"head.{name}": value for name, value in reference.head.state_dict().items()}
    state, unknown = PUBLISHED[model].table.to_ours(theirs)
    assert not unknown
    head.load_state_dict({name.removeprefix("head."): value for name, value in state.items()})


def retinanets(**options: object) -> tuple[RetinaNet, RetinaNetHead]:
    generator = AnchorGenerator(tuple((4 * s,) for s in SPEC.strides), (RATIOS,) * 3)
    reference = RetinaNet(
        Backbone(), CLASSES, anchor_generator=generator, nms_thresh=1.0, detections_per_img=100_000, topk_candidates=200
    )
    settings = {"scales_per_octave": 1, "aspect_ratios": RATIOS, "crowd": "background", "candidates_per_level": 200}
    head = RetinaNetHead(SPEC, CLASSES, **settings, **options)  # type: ignore[arg-type]  # options vary by test
    copy_weights(reference, "retinanet_resnet50_fpn", head)
    return reference, head


def fcoses() -> tuple[FCOS, FCOSHead]:
    generator = AnchorGenerator(tuple((s,) for s in SPEC.strides), ((1.0,),) * 3)
    reference = FCOS(
        Backbone(),
        CLASSES,
        anchor_generator=generator,
        score_thresh=0.05,
        nms_thresh=1.0,
        detections_per_img=100_000,
        topk_candidates=200,
    )
    for layer in reference.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = NUM_GROUPS
    head = FCOSHead(SPEC, CLASSES, level_scales=False, center_offset=0.0, crowd="background", candidates_per_level=200)
    copy_weights(reference, "fcos_resnet50_fpn", head)
    return reference, head


def reference_anchors(reference: RetinaNet | FCOS) -> list[Tensor]:
    return reference.anchor_generator(ImageList(torch.zeros(3, 3, *SIZE), [SIZE] * 3), features())  # type: ignore[no-any-return]  # untyped


def reference_targets() -> list[dict[str, Tensor]]:
    return [{"boxes": b, "labels": c} for b, c in zip(BOXES, LABELS, strict=True)]


def compare_candidates(reference: RetinaNet | FCOS, head: RetinaNetHead | FCOSHead) -> None:
    """Compare with torchvision's detections when its NMS keeps all; those empty after clipping are none of ours."""
    counts = [SIZE[0] // s * (SIZE[1] // s) * getattr(head, "num_anchors", 1) for s in SPEC.strides]
    with torch.no_grad():
        raw = {name: list(v.split(counts, dim=1)) for name, v in reference.head(features()).items()}
        anchors = [list(a.split(counts)) for a in reference_anchors(reference)]
        expected = reference.postprocess_detections(raw, anchors, [SIZE] * 3)
        boxes, scores, labels, _ = head.candidates(head(features()), batch().image_sizes)
    for i, of_image in enumerate(expected):
        real = (of_image["boxes"][:, 2:] > of_image["boxes"][:, :2]).all(1)
        assert real.sum() > 100
        mine = scores[i] > 0
        order = scores[i][mine].argsort(descending=True, stable=True)
        torch.testing.assert_close(scores[i][mine][order], of_image["scores"][real], rtol=1e-5, atol=1e-6)
        assert len(order) == real.sum()
        # by place rather than by rank, as scores equal to rounding may change places
        for detected, label in zip(boxes[i][mine][order], labels[i][mine][order], strict=True):
            same = of_image["labels"] == label
            assert (of_image["boxes"][same] - detected).abs().amax(1).min() < 1e-3


def test_retinanet_anchors_equal_torchvision() -> None:
    reference, head = retinanets()
    assert torch.equal(torch.cat(head.anchors(head(features()))), reference_anchors(reference)[0])


def test_default_retinanet_anchors_equal_torchvision_before_its_rounding() -> None:
    sizes = tuple((4 * s, int(4 * s * 2 ** (1 / 3)), int(4 * s * 2 ** (2 / 3))) for s in SPEC.strides)
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3)
    head = RetinaNetHead(SPEC, CLASSES)
    expected = generator(ImageList(torch.zeros(3, 3, *SIZE), [SIZE] * 3), features())[0]
    # torchvision cuts the size to whole pixels (< 1), of which half times sqrt(2) is seen, then rounds (<= .5)
    assert (torch.cat(head.anchors(head(features()))) - expected).abs().max() < 1.21


def test_retinanet_matches_equal_torchvision() -> None:
    reference, head = retinanets()
    anchors, targets = reference_anchors(reference)[0], batch().targets
    match = head.match(anchors, targets.boxes, targets.valid)
    for i in (0, 2):
        expected = reference.proposal_matcher(box_iou(BOXES[i], anchors))
        assert torch.equal(match.positive[i], expected >= 0)
        assert torch.equal(match.negative[i], expected == -1)
        assert torch.equal(match.row[i][expected >= 0], expected[expected >= 0])
        assert (expected >= 0).sum() > 3
        assert (expected == -2).any()
    assert match.negative[1].all()


@pytest.mark.parametrize("box_loss", ["l1", "smooth_l1", "giou"])
def test_retinanet_losses_equal_torchvision(box_loss: str) -> None:
    reference, head = retinanets(box_loss=box_loss, smooth_l1_beta=1.0)
    reference.head.regression_head._loss_type = box_loss
    expected = reference.compute_loss(reference_targets(), reference.head(features()), reference_anchors(reference))
    losses = head.loss(head(features()), batch())
    torch.testing.assert_close(losses["loss_cls"], expected["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["loss_box"], expected["bbox_regression"], rtol=1e-5, atol=0)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for ours, theirs in (
        (head.cls_tower[0].conv, reference.head.classification_head.conv[0][0]),
        (head.box_deltas, reference.head.regression_head.bbox_reg),
    ):
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-5)


def test_retinanet_candidates_equal_torchvision() -> None:
    compare_candidates(*retinanets())


def test_fcos_matches_and_losses_equal_torchvision() -> None:
    reference, head = fcoses()
    matched: list[Tensor] = []
    compute_loss = reference.head.compute_loss

    def spy(targets: object, outputs: object, anchors: object, indices: list[Tensor]) -> object:
        matched.extend(indices)
        return compute_loss(targets, outputs, anchors, indices)

    reference.head.compute_loss = spy
    counts = [SIZE[0] // s * (SIZE[1] // s) for s in SPEC.strides]
    expected = reference.compute_loss(
        reference_targets(), reference.head(features()), reference_anchors(reference), counts
    )
    outputs, targets = head(features()), batch().targets
    match = head.match(head.points(outputs), targets.boxes, targets.valid)
    for i in range(3):
        assert torch.equal(match.positive[i], matched[i] >= 0)
        assert torch.equal(match.row[i][matched[i] >= 0], matched[i][matched[i] >= 0])
    assert match.positive.sum() > 20
    losses = head.loss(outputs, batch())
    names = {"loss_cls": "classification", "loss_box": "bbox_regression", "loss_ctr": "bbox_ctrness"}
    for ours, theirs in names.items():
        torch.testing.assert_close(losses[ours], expected[theirs], rtol=1e-5, atol=0)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for mine, their in (
        (head.cls_tower[0].conv, reference.head.classification_head.conv[0]),
        (head.box_tower[0].conv, reference.head.regression_head.conv[0]),
        (head.box_centerness, reference.head.regression_head.bbox_ctrness),
    ):
        torch.testing.assert_close(mine.weight.grad, their.weight.grad, rtol=1e-4, atol=1e-5)


def test_fcos_candidates_equal_torchvision() -> None:
    compare_candidates(*fcoses())
