from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou

from detfuse.heads.mscnn import ContextPool, MSCNNHead, MSCNNOutputs, enlarged
from detfuse.ops.boxes import encode_deltas
from detfuse.structures import Batch, FeatureSpec, Targets

SPEC = FeatureSpec((4, 6), (8, 16))
CLASSES = 2
SIDE = 64
OBJECTS = [[4.0, 4.0, 16.0, 16.0], [20.0, 22.0, 44.0, 42.0]]


def small(**options: Any) -> MSCNNHead:
    """Templates of 10, 14 and 20 pixels; what it learns from is not drawn but all there is."""
    given = {"template_scale": 0.25, "box_channels": 8, "samples": 4000, "train_proposals": 50, "dropout": 0.0}
    return MSCNNHead(SPEC, CLASSES, **{**given, **options})


def batch_of(*objects: list[list[float]]) -> Batch:
    count = len(objects)
    boxes, valid = torch.zeros(count, 8, 4), torch.zeros(count, 8, dtype=torch.bool)
    for image, of_image in enumerate(objects):
        for row, box in enumerate(of_image):
            boxes[image, row], valid[image, row] = torch.tensor(box), True
    labels = (torch.arange(8) % CLASSES).expand(count, 8) * valid
    sizes = torch.tensor([[SIDE, SIDE]] * count)
    images = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8)
    targets = Targets(boxes, labels, valid, torch.zeros_like(valid))
    return Batch(images, sizes, sizes, torch.ones(count, 2), torch.arange(count), targets)


def features(images: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.rand(images, c, SIDE // s, SIDE // s) for c, s in zip(SPEC.channels, SPEC.strides, strict=True)]


def test_layers_are_as_wide_as_published() -> None:
    """KITTI's cars on VGG-16: 512 channels of the region and 512 of its context, 3x3 to 512 and 5 x 5 cells, 4096."""
    with torch.device("meta"):
        head = MSCNNHead(FeatureSpec((512,) * 4, (8, 16, 32, 64)), 4)
    shapes = {name: tuple(weight.shape) for name, weight in head.named_parameters() if name.endswith("weight")}
    assert {name: shape for name, shape in shapes.items() if not name.startswith("proposer.")} == {
        "regions.deconv.weight": (512, 1, 4, 4),
        "box_head.0.weight": (512, 1024, 3, 3),
        "box_head.3.weight": (4096, 512 * 5 * 5),
        "cls_logits.weight": (5, 4096),
        "box_deltas.weight": (16, 4096),
    }
    assert sum(name.startswith("proposer.branches") for name in shapes) == 7
    assert [layer.p for layer in head.modules() if isinstance(layer, nn.Dropout)] == [0.5]


def test_the_map_is_doubled_as_bilinear_interpolation_and_learns_to_do_otherwise() -> None:
    pool = ContextPool(4, 8, 7, 1.5, "max")
    x = torch.rand(1, 4, 6, 7)
    doubled = pool.deconv(x)
    assert doubled.shape == (1, 4, 12, 14)
    assert pool.stride == 4
    wanted = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(doubled[inner], wanted[inner])
    pool(x, torch.tensor([[[4.0, 4.0, 30.0, 40.0]]])).sum().backward()
    assert pool.deconv.weight.grad is not None
    assert pool.deconv.weight.grad.any()


def test_the_context_has_sides_half_as_long_again_around_the_same_centre() -> None:
    box = torch.tensor([[[40.0, 60.0, 80.0, 140.0]]])
    assert enlarged(box, 1.5).tolist() == [[[30.0, 40.0, 90.0, 160.0]]]
    assert enlarged(torch.tensor([0.0, 0.0, 8.0, 8.0]), 1.5).tolist() == [-2.0, -2.0, 10.0, 10.0], "it may stick out"
    # the map says at each place how far right it is, in pixels: what is pooled then tells from where it came
    places = (torch.arange(24) + 0.5) * 8
    x = places.expand(1, 1, 24, 24).contiguous()
    means = ContextPool(1, 8, 4, 1.5, "align")(x, box)[0, :, 0]
    torch.testing.assert_close(means[0] - 2, torch.tensor([45.0, 55.0, 65.0, 75.0]))  # 2: half a pixel of the map
    torch.testing.assert_close(means[1] - 2, torch.tensor([37.5, 52.5, 67.5, 82.5]))
    largest = ContextPool(1, 8, 4, 1.5, "max")(x, box)[0, :, :, -1].amax(1)
    torch.testing.assert_close(largest, torch.tensor([80.0, 90.0]), rtol=0, atol=4)  # of the last cell of the map


def perfect(head: MSCNNHead, batch: Batch) -> MSCNNOutputs:
    """A first stage that finds every object of one image, and is sure of it."""
    outputs, targets = head(features(1)), batch.targets
    first = head.proposer
    templates = torch.cat(first.templates(outputs.first))
    match = first.match(templates, targets.boxes, targets.valid)
    row, positive = match.row[0], match.positive[0]
    deltas = torch.where(positive[:, None], encode_deltas(targets.boxes[0][row], templates), 0.0)
    logits = functional.one_hot(torch.where(positive, targets.labels[0][row] + 1, 0), CLASSES + 1) * 30.0
    maps = []
    for table in (logits, deltas):
        parts = table.split([64 * 2, 16], dim=0)
        maps.append(tuple(x.reshape(1, s, s, -1).permute(0, 3, 1, 2) for x, s in zip(parts, (8, 4), strict=True)))
    return MSCNNOutputs(*maps, outputs.maps)


def test_what_the_first_stage_finds_the_second_names() -> None:
    """One proposal of each object is left by the suppression, and it is the second stage that says what it is."""
    head, batch = small(proposals=2).eval(), batch_of(OBJECTS)
    with torch.no_grad():
        for layer in (head.cls_logits, head.box_deltas):
            layer.weight.zero_()
        head.cls_logits.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
        outputs = perfect(head, batch)
        proposals = head.proposer.best(outputs.first, batch.image_sizes, 1000)
        boxes, scores, labels, levels = head.candidates(outputs, batch.image_sizes)
    sure = proposals[1][0] > 0.9
    assert sure.sum() > len(OBJECTS), "several templates find each of them"
    best = boxes[0, :2][boxes[0, :2, 0].argsort()]
    torch.testing.assert_close(best, torch.tensor(OBJECTS), rtol=0, atol=1e-3)
    assert labels[0, :2].tolist() == [1, 1]
    assert not levels.any()
    assert (scores[0, :2] > 0.9).all()


def test_proposals_are_ranked_by_all_classes_against_the_background() -> None:
    head, batch = small(), batch_of(OBJECTS)
    outputs = head(features(1))
    boxes, scores, labels, _ = head.proposer.best(outputs.first, batch.image_sizes, 5)
    assert boxes.shape == (1, 10, 4), "one per template and not one per class"
    background = outputs.logits[0].unflatten(1, (2, -1)).softmax(2)[:, :, 0]
    torch.testing.assert_close(scores[0, 0], 1 - background.min())
    assert not labels.any()


@pytest.mark.parametrize("objects", [OBJECTS, []])
def test_both_stages_learn_together_and_the_second_only_if_it_weighs(objects: list[list[float]]) -> None:
    batch = batch_of(objects, [])
    both, alone = small(), small(second_stage_weight=0.0)
    alone.load_state_dict(both.state_dict())
    losses = both.loss(both(features(2)), batch)
    sum(losses.values()).backward()
    first = alone.loss(alone(features(2)), batch)
    assert {name for name, loss in losses.items() if loss == 0} == (
        set() if objects else {"loss_proposal_box", "loss_box"}
    )
    for name in ("loss_proposal_cls", "loss_proposal_box"):
        assert torch.equal(losses[name], first[name])
    assert first["loss_cls"] == first["loss_box"] == 0
    sum(first.values()).backward()
    for (name, weight), other in zip(both.named_parameters(), alone.parameters(), strict=True):
        assert weight.grad is not None, name
        assert other.grad is not None, name
        assert name.startswith("proposer.") or not other.grad.any(), name


def test_lambda_is_the_factor_of_the_boxes_of_both_stages() -> None:
    batch, heads = batch_of(OBJECTS), [small(), small(box_weight=0.05)]
    heads[1].load_state_dict(heads[0].state_dict())
    one, less = (head.loss(head(features(1)), batch) for head in heads)
    for name, loss in one.items():
        torch.testing.assert_close(less[name], loss * (0.05 if "box" in name else 1.0))


def test_regions_are_drawn_at_random_and_at_most_a_quarter_are_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    head, batch = small(samples=8), batch_of(OBJECTS)
    seen: list[Tensor] = []
    second = head.second
    monkeypatch.setattr(head, "second", lambda maps, boxes: seen.append(boxes) or second(maps, boxes))
    outputs = perfect(head, batch)
    for _ in range(2):
        head.loss(outputs, batch)
    for boxes in seen:
        assert boxes.shape == (1, 8, 4)
        assert (box_iou(boxes[0], torch.tensor(OBJECTS)).amax(1) >= 0.5).sum() == 2
    assert not torch.equal(*seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background_iou": 0.6}, "MSCNNHead: background_iou=0.6 must not be above foreground_iou=0.5"),
        ({"proposal_background_iou": 0.6}, "proposal_background_iou=0.6 must not be above proposal_foreground_iou=0.5"),
        ({"roi_size": 2}, "roi_size must be at least 3"),
        ({"pooling": "mean"}, "pooling must"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
