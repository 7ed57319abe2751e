"""What RetinaNet and FCOS promise alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from detfuse.heads.fcos import FCOSHead
from detfuse.heads.retinanet import RetinaNetHead
from detfuse.ops.postprocess import Nms
from detfuse.protocols import Head
from detfuse.structures import Batch, FeatureSpec, Targets

DenseHead = RetinaNetHead | FCOSHead
SPEC = FeatureSpec((16, 16), (8, 16))
CLASSES = 3
HEADS = pytest.mark.parametrize("make", [RetinaNetHead, FCOSHead])


def seeded(make: Callable[..., DenseHead], **options: object) -> DenseHead:
    torch.manual_seed(0)
    return make(SPEC, CLASSES, num_convs=1, **options)


def maps(batch: int = 2, height: int = 64, width: int = 96) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, 16, math.ceil(height / s), math.ceil(width / s), generator=generator) for s in SPEC.strides
    ]


def batch_of(boxes: list[list[list[float]]], rows: int = 8) -> Batch:
    """A batch of 64x96 images."""
    count = len(boxes)
    table, labels = torch.zeros(count, rows, 4), torch.zeros(count, rows, dtype=torch.int64)
    valid = torch.zeros(count, rows, dtype=torch.bool)
    for i, of_image in enumerate(boxes):
        for j, box in enumerate(of_image):
            table[i, j], labels[i, j] = torch.tensor(box), j % CLASSES
            valid[i, j] = True
    sizes = torch.tensor([[64, 96]] * count)
    images = torch.zeros(count, 3, 64, 96, dtype=torch.uint8)
    targets = Targets(table, labels, valid, torch.zeros_like(valid))
    return Batch(images, sizes, sizes, torch.ones(count, 2), torch.arange(count), targets)


BOXES = [[[4.0, 6.0, 40.0, 50.0], [50.0, 10.0, 70.0, 30.0]], [[20.0, 20.0, 60.0, 44.0]]]


@HEADS
def test_it_is_a_head(make: Callable[..., DenseHead]) -> None:
    head = seeded(make)
    assert isinstance(head, Head)
    assert head.compilable


@HEADS
def test_every_parameter_learns_and_the_prior_holds(make: Callable[..., DenseHead]) -> None:
    head = seeded(make)
    outputs = head(maps())
    assert outputs.logits[0].sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)
    sum(head.loss(outputs, batch_of(BOXES)).values()).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@HEADS
def test_images_without_boxes_teach_background_only(make: Callable[..., DenseHead]) -> None:
    head = seeded(make)
    losses = head.loss(head(maps()), batch_of([[], []]))
    assert losses.pop("loss_cls") > 0
    assert [value.item() for value in losses.values()] == [0.0] * len(losses)
    sum(head.loss(head(maps()), batch_of([[], []])).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@HEADS
def test_padded_rows_teach_nothing(make: Callable[..., DenseHead]) -> None:
    head = seeded(make)
    expected = head.loss(head(maps()), batch_of(BOXES))
    for name, value in head.loss(head(maps()), batch_of(BOXES, rows=16)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=0)


@HEADS
def test_loss_is_float32_under_autocast(make: Callable[..., DenseHead]) -> None:
    head = seeded(make)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = head(maps())
        losses = head.loss(outputs, batch_of(BOXES))
    assert outputs.logits[0].dtype == torch.bfloat16
    assert {value.dtype for value in losses.values()} == {torch.float32}
    exact = head.loss(head(maps()), batch_of(BOXES))
    for name, value in losses.items():
        torch.testing.assert_close(value, exact[name], rtol=0.02, atol=0)


@HEADS
def test_candidates_lie_inside_their_image_and_padding_does_not_compete(make: Callable[..., DenseHead]) -> None:
    head = seeded(make, score_threshold=0.0, candidates_per_level=50)
    sizes = torch.tensor([[40, 50], [64, 96]])
    boxes, scores, labels, levels = head.candidates(head(maps()), sizes)
    assert boxes.shape == (2, 100, 4)
    assert scores.shape == labels.shape == levels.shape == (2, 100)
    assert levels.unique().tolist() == [0, 1]
    assert labels.max() < CLASSES
    kept = boxes[0][scores[0] > 0]
    assert len(kept) > 10
    assert (kept[:, 2] <= 50).all()
    assert (kept[:, 3] <= 40).all()
    assert (kept[:, 2:] > kept[:, :2]).all()
    # the same maps without the cells that lie wholly in the padding: 40x50 pixels are 5x7 and 3x4 cells
    outputs = head(maps())
    cut = type(outputs)(
        *([m[:1, :, :h, :w] for m, (h, w) in zip(field, [(5, 7), (3, 4)], strict=True)] for field in outputs)
    )
    alone = head.candidates(cut, sizes[:1])[1]
    torch.testing.assert_close(alone[alone > 0].sort().values, scores[0][scores[0] > 0].sort().values)


@HEADS
def test_threshold_leaves_zero_scores(make: Callable[..., DenseHead]) -> None:
    head = seeded(make, score_threshold=0.9)
    _, scores, _, _ = head.candidates(head(maps()), torch.tensor([[64, 96]] * 2))
    assert not scores.any()


@HEADS
def test_outputs_that_are_no_numbers_are_seen(make: Callable[..., DenseHead]) -> None:
    head = seeded(make, candidates_per_level=50)
    sizes = torch.tensor([[64, 40], [64, 96]])
    features = maps()
    features[0][0, :, 2, 2] = torch.nan
    features[1][1] = torch.nan
    outputs = head(features)
    boxes, scores, _, levels = head.candidates(outputs, sizes)
    assert boxes.isfinite().all()
    assert levels[scores.isnan()].unique().tolist() == [0, 1]
    assert levels[0][scores[0].isnan()].unique().tolist() == [0]
    assert (scores[1].isnan() == (levels[1] == 1)).all()
    assert [Nms()(*image).broken for image in zip(*head.candidates(outputs, sizes), strict=True)] == [True, True]


@HEADS
def test_padding_that_is_no_number_does_not_matter(make: Callable[..., DenseHead]) -> None:
    head, sizes = seeded(make, score_threshold=0.0), torch.tensor([[64, 40], [64, 96]])
    outputs = head(maps())
    for level, stride in zip(outputs.logits, SPEC.strides, strict=True):
        level.detach()[0, :, :, math.ceil(40 / stride) :] = torch.nan
    assert not head.candidates(outputs, sizes)[1].isnan().any()


@HEADS
def test_a_box_that_is_no_box_is_seen(make: Callable[..., DenseHead]) -> None:
    head, sizes = seeded(make, score_threshold=0.0), torch.tensor([[64, 96]] * 2)
    outputs = head(maps())
    outputs[1][0].detach()[0, :, 3, 3] = torch.inf
    boxes, scores, _, levels = head.candidates(outputs, sizes)
    assert boxes.isfinite().all()
    assert scores[0].isnan().any()
    assert (levels[0][scores[0].isnan()] == 0).all()
    assert not scores[1].isnan().any()


def test_a_single_retinanet_level_carries_all_anchors_and_says_so() -> None:
    head = RetinaNetHead(FeatureSpec((16,), (8,)), CLASSES)
    assert head.num_anchors == 45
    assert "45 anchors per cell (a single level carries the anchors of all), sizes 32 to 813 px" in head.describe()
    levels = RetinaNetHead(FeatureSpec((16,) * 5, (8, 16, 32, 64, 128)), CLASSES)
    assert levels.num_anchors == 9
    assert head.anchor_sizes[0] == [size for of_level in levels.anchor_sizes for size in of_level]


def test_fcos_ranges_join_and_a_single_level_takes_all() -> None:
    assert FCOSHead(FeatureSpec((16,) * 3, (8, 16, 64)), CLASSES).size_ranges == [(0, 64), (64, 128), (128, math.inf)]
    head = FCOSHead(FeatureSpec((16,), (32,)), CLASSES)
    assert head.size_ranges == [(0, math.inf)]
    assert "stride 32: 0 to inf" in head.describe()


def test_half_precision_keeps_the_anchors_exact() -> None:
    head = RetinaNetHead(SPEC, CLASSES)
    outputs = head(maps())
    before = torch.cat(head.anchors(outputs))
    assert torch.equal(torch.cat(head.bfloat16().anchors(outputs)), before)


@HEADS
def test_it_learns_a_scene(make: Callable[..., DenseHead]) -> None:
    head, features, batch = seeded(make), maps(), batch_of(BOXES)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(head.loss(head(features), batch).values()).backward()
        optimizer.step()
    boxes, scores, labels, _ = head.candidates(head(features), batch.image_sizes)
    for i, of_image in enumerate(BOXES):
        for j, box in enumerate(of_image):
            ours = scores[i] * (labels[i] == j)
            assert (boxes[i, ours.argmax()] - torch.tensor(box)).abs().max() < 4


class Loss(nn.Module):
    """The training graph as a function of tensors."""

    def __init__(self, head: DenseHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: list[Tensor], boxes: Tensor, labels: Tensor, valid: Tensor) -> dict[str, Tensor]:
        sizes = torch.zeros(len(boxes), 2, dtype=torch.int64)
        targets = Targets(boxes, labels, valid, torch.zeros_like(valid))
        images = torch.zeros(1, dtype=torch.uint8)
        return self.head.loss(self.head(features), Batch(images, sizes, sizes, sizes, sizes, targets))


@HEADS
def test_loss_compiles_whole(make: Callable[..., DenseHead]) -> None:
    torch._dynamo.reset()
    head = seeded(make)
    eager = Loss(head)
    compiled = torch.compile(eager, fullgraph=True, dynamic=False, backend="aot_eager")
    for batch in (batch_of(BOXES), batch_of([[], []])):
        results = []
        for function in (eager, compiled):
            head.zero_grad()
            terms = function(maps(), *batch.targets[:3])
            sum(terms.values()).backward()
            results.append(([*terms.values()], [p.grad for p in head.parameters()]))
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("traced_anew")
@HEADS
def test_one_graph_serves_all_shapes(make: Callable[..., DenseHead]) -> None:
    torch._dynamo.reset()
    head = seeded(make)
    compiled = torch.compile(Loss(head), fullgraph=True, dynamic=True, backend="eager")
    # sizes that differ from each other and from the 16 channels: dynamo takes equal ones to be one symbol
    scenes = [(maps(2, 72, 104), batch_of(BOXES, rows=32)), (maps(3, 88, 120), batch_of([*BOXES, []], rows=8))]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for features, batch in scenes:
            arguments = (features, *batch.targets[:3])
            torch.testing.assert_close(compiled(*arguments), Loss(head)(*arguments))
