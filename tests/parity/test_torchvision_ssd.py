"""Same weights and images as torchvision's SSD300: same default boxes, matches, losses, gradients and detections."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from detfuse.backbones.torchvision_backbone import TorchvisionBackbone
from detfuse.detector import Detector
from detfuse.heads.ssd import SSDHead
from detfuse.necks.ssd_extras import SSDExtras
from detfuse.ops.postprocess import Nms
from detfuse.structures import Batch, Targets
from detfuse.weights.torchvision_ssd import from_torchvision_ssd

CLASSES, SIZE = 3, (300, 300)
STEPS = (8, 16, 32, 64, 100, 300)
MEAN, STD = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3
# none so small that it lies within several default boxes of one shape: which of equals is the best is left to rounding
BOXES = [
    torch.tensor(
        [[10.3, 12.1, 60.7, 88.2], [30.2, 20.9, 55.1, 41.3], [31.0, 21.5, 54.0, 42.0], [0.4, 0.6, 290.3, 126.9]]
    ),
    torch.zeros(0, 4),
    torch.tensor([[120.6, 160.2, 187.1, 220.5], [200.1, 200.7, 222.3, 231.9]]),
]
LABELS = [torch.tensor([0, 2, 1, 2]), torch.zeros(0, dtype=torch.int64), torch.tensor([1, 0])]
CROWD = torch.tensor([0.0, 0.0, 250.0, 300.0])  # in every image; torchvision knows none, so it is background
MAPS = ((512, 38), (1024, 19), (512, 10), (256, 5), (256, 3), (256, 1))


def batch() -> Batch:
    count = len(BOXES)
    boxes, labels = torch.zeros(count, 8, 4), torch.zeros(count, 8, dtype=torch.int64)
    valid = torch.zeros(count, 8, dtype=torch.bool)
    for i, (of_image, classes) in enumerate(zip(BOXES, LABELS, strict=True)):
        boxes[i, : len(of_image)], labels[i, : len(of_image)], valid[i, : len(of_image)] = of_image, classes, True
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 12, 12, generator=generator)  # blobs, which the extra levels see too
    images = (nn.functional.interpolate(coarse, SIZE, mode="bilinear") * 255).to(torch.uint8)
    sizes = torch.tensor([SIZE] * count)
    ignore = torch.zeros_like(valid)
    boxes[:, 7], ignore[:, 7] = CROWD, True
    targets = Targets(boxes, labels, valid, ignore)
    return Batch(images, sizes, sizes, torch.ones(count, 2), torch.arange(count), targets)


def reference_targets() -> list[dict[str, Tensor]]:
    return [{"boxes": b, "labels": c + 1} for b, c in zip(BOXES, LABELS, strict=True)]  # their 0 is the background


@pytest.fixture(scope="module")
def models() -> tuple[SSD, Detector]:
    """Both with the same weights, those of the predictors larger than at the start so that something is detected."""
    torch.manual_seed(5)
    reference = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name.startswith("head"):
                parameter.normal_(std=0.004)
            elif name == "backbone.scale_weight":
                parameter.uniform_(10, 30)
        for layer in reference.backbone.modules():  # the extra levels answer to random pixels as weakly as to nothing
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                layer.weight *= 0.8
    reference.score_thresh, reference.topk_candidates = 0.5, 1_000_000  # so that no limit is met
    backbone = TorchvisionBackbone(name="vgg16", levels=(3, 4), ceil_mode=True)
    neck = SSDExtras(backbone.out_spec)
    head = SSDHead(
        neck.out_spec,
        CLASSES,
        steps=STEPS,
        crowd="background",
        min_negatives=0,
        score_threshold=0.5,
        candidates_per_level=100_000,
    )
    detector = Detector(backbone, neck, head, mean=MEAN, std=STD)
    detector.load_state_dict(from_torchvision_ssd(reference.state_dict(), head.num_boxes))
    return reference, detector


def random_maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(len(BOXES), c, s, s, generator=generator) for c, s in MAPS]


def reference_boxes(reference: SSD, features: list[Tensor], size: tuple[int, int] = SIZE) -> list[Tensor]:
    images = ImageList(torch.zeros(len(BOXES), 3, *size), [size] * len(BOXES))
    return reference.anchor_generator(images, features)  # type: ignore[no-any-return]  # untyped


@pytest.mark.parametrize("size", [(300, 300), (240, 360)])
def test_default_boxes_equal_torchvision(models: tuple[SSD, Detector], size: tuple[int, int]) -> None:
    reference, detector = models
    features = random_maps()
    boxes = detector.head.default_boxes(detector.head(features), torch.tensor([size] * 3))
    expected = reference_boxes(reference, features, size)
    assert expected[0].shape == (8732, 4)
    for i in range(3):
        torch.testing.assert_close(torch.cat(boxes, dim=1)[i], expected[i], rtol=1e-6, atol=1e-4)


def test_matches_equal_torchvision(models: tuple[SSD, Detector]) -> None:
    reference, detector = models
    features, targets = random_maps(), batch().targets
    boxes = torch.cat(detector.head.default_boxes(detector.head(features), batch().image_sizes), dim=1)
    match = detector.head.match(boxes, targets.boxes, targets.valid)
    for i in (0, 2):
        expected = reference.proposal_matcher(box_iou(BOXES[i], reference_boxes(reference, features)[i]))
        assert torch.equal(match.positive[i], expected >= 0)
        assert torch.equal(match.row[i][expected >= 0], expected[expected >= 0])
        assert set(match.row[i][match.positive[i]].tolist()) == set(range(len(BOXES[i]))), "every object is learnt"
    assert not match.positive[1].any()


def test_losses_and_gradients_of_the_head_equal_torchvision(models: tuple[SSD, Detector]) -> None:
    reference, detector = models
    features = random_maps()
    outputs = reference.head(features)
    boxes = reference_boxes(reference, features)
    matched = [
        reference.proposal_matcher(box_iou(b, boxes[0])) if len(b) else torch.full((8732,), -1, dtype=torch.int64)
        for b in BOXES
    ]
    expected = reference.compute_loss(reference_targets(), outputs, boxes, matched)
    losses = detector.head.loss(detector.head(features), batch())
    torch.testing.assert_close(losses["loss_cls"], expected["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["loss_box"], expected["bbox_regression"], rtol=1e-5, atol=0)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for ours, theirs in (
        (detector.head.cls_logits, reference.head.classification_head.module_list),
        (detector.head.box_deltas, reference.head.regression_head.module_list),
    ):
        for mine, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine.weight.grad, their.weight.grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_losses_and_detections_of_the_detector_equal_torchvision(models: tuple[SSD, Detector]) -> None:
    """From the same pixels, through backbone, neck, head and NMS."""
    reference, detector = models
    given = batch()
    images = [image / 255 for image in given.images]
    outputs = detector(given.images, given.image_sizes)
    losses = detector.head.loss(outputs, given)
    expected = reference.train()(images, reference_targets())
    torch.testing.assert_close(losses["loss_cls"], expected["classification"], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses["loss_box"], expected["bbox_regression"], rtol=1e-4, atol=0)
    detections = detector.predict(given.images, given.image_sizes, Nms(iou_threshold=0.45, max_detections=200))
    for mine, theirs in zip(detections, reference.eval()(images), strict=True):
        assert len(theirs["scores"]) > 20
        assert theirs["scores"].max() < 1, "equal scores have no order"
        torch.testing.assert_close(mine.scores, theirs["scores"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.boxes, theirs["boxes"], rtol=1e-4, atol=1e-2)
        assert torch.equal(mine.labels, theirs["labels"] - 1)


def test_weights_of_chosen_labels_fit_a_smaller_head(models: tuple[SSD, Detector]) -> None:
    reference, detector = models
    state = from_torchvision_ssd(reference.state_dict(), detector.head.num_boxes, label_ids=[1, 3])
    head = SSDHead(detector.neck.out_spec, 2, steps=STEPS)
    head.load_state_dict({k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")})
    features = random_maps()
    with torch.no_grad():
        for all_of_level, chosen in zip(detector.head(features).logits, head(features).logits, strict=True):
            kept = torch.unflatten(all_of_level, 1, (-1, CLASSES + 1))[:, :, [0, 1, 3]].flatten(1, 2)
            assert torch.equal(kept, chosen)


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no weights of torchvision's ssd300_vgg16: it has no backbone.body"):
        from_torchvision_ssd({"backbone.body.conv1.weight": torch.zeros(1)}, [4])
    with pytest.raises(ValueError, match="labels 1 to 2"):
        from_torchvision_ssd({"head.classification_head.module_list.0.bias": torch.zeros(12)}, [4], label_ids=[3])
