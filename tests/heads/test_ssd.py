from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from detfuse.heads.ssd import COCO_SCALES, SSDHead, SSDOutputs, spread_ratios, spread_scales
from detfuse.ops.boxes import decode_deltas, encode_deltas
from detfuse.ops.matching import match_default_boxes
from detfuse.structures import Batch, FeatureSpec, Targets

Reference = Callable[[str], dict[str, Tensor]]

SPEC = FeatureSpec((4, 6, 8), (8, 16, 32))
CLASSES = 3
PUBLISHED = FeatureSpec((1,) * 6, (8, 16, 32, 64, 128, 256))
STEPS = (8, 16, 32, 64, 100, 300)
SIDES = (38, 19, 10, 5, 3, 1)


def make_batch(boxes: list[list[list[float]]], size: tuple[int, int] = (96, 96), rows: int = 8) -> Batch:
    count = len(boxes)
    table, valid = torch.zeros(count, rows, 4), torch.zeros(count, rows, dtype=torch.bool)
    for i, of_image in enumerate(boxes):
        table[i, : len(of_image)] = torch.tensor(of_image).reshape(-1, 4)
        valid[i, : len(of_image)] = True
    labels = torch.arange(rows).remainder(CLASSES).expand(count, rows).contiguous() * valid
    sizes = torch.tensor([size] * count)
    images = torch.zeros(count, 3, *size, dtype=torch.uint8)
    targets = Targets(table, labels, valid, torch.zeros_like(valid))
    return Batch(images, sizes, sizes, torch.ones(count, 2), torch.arange(count), targets)


def outputs_of(head: SSDHead, batch: Batch, seed: int = 0) -> SSDOutputs:
    generator = torch.Generator().manual_seed(seed)
    height, width = batch.images.shape[-2:]
    return SSDOutputs(
        *(
            tuple(
                torch.randn(len(batch.images), n * depth, -(-height // s), -(-width // s), generator=generator)
                for n, s in zip(head.num_boxes, head.in_spec.strides, strict=True)
            )
            for depth in (head.num_classes + 1, 4)
        )
    )


def published(**options: Any) -> tuple[SSDHead, SSDOutputs]:
    head = SSDHead(PUBLISHED, CLASSES, steps=STEPS, **options)
    return head, head([torch.zeros(1, 1, side, side) for side in SIDES])


def test_published_layout_has_8732_boxes() -> None:
    head, outputs = published()
    assert head.num_boxes == [4, 6, 6, 6, 4, 4]
    assert head.scales == pytest.approx(COCO_SCALES)
    assert sum(x.shape[1] for x in head.default_boxes(outputs, torch.tensor([[300, 300]]))) == 8732


@pytest.mark.parametrize("data", ["coco", "voc"])
def test_default_boxes_equal_the_original_code(data: str, reference: Reference) -> None:
    """ssd.pytorch cuts (cx, cy, w, h) at 0..1; only centres beyond the image (of the coarse maps) feel it."""
    scales = None if data == "coco" else [0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05]
    head, outputs = published(scales=scales)
    expected = reference(f"ssdpytorch_prior_box_{data}300")["out"]
    boxes = torch.cat(head.default_boxes(outputs, torch.tensor([[300, 300]])), dim=1)[0] / 300
    ours = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
    within = (ours[:, :2] <= 1).all(1)
    assert (~within).sum() == 114
    torch.testing.assert_close(ours[within], expected[within], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.clamp(max=1), expected, rtol=0, atol=1e-6)


def test_matches_and_codes_equal_the_original_code(reference: Reference) -> None:
    numbers = reference("ssdpytorch_match")
    priors = numbers["in.priors"]
    corners = torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], dim=1)
    truths = torch.cat([torch.zeros(2, 4), numbers["in.truths"]])[None]  # padding first: rows must not be confused
    labels = torch.cat([torch.zeros(2), numbers["in.labels"]]).long()
    valid = torch.tensor([[False] * 2 + [True] * (truths.shape[1] - 2)])
    match = match_default_boxes(corners[None], truths, valid, foreground_iou=0.5)
    assert torch.equal(torch.where(match.positive[0], labels[match.row[0]] + 1, 0), numbers["out.conf"].long())
    coded = encode_deltas(truths[0][match.row[0]], corners) * torch.tensor([10.0, 10.0, 5.0, 5.0])
    positive = match.positive[0]
    torch.testing.assert_close(coded[positive], numbers["out.loc"][positive], rtol=1e-4, atol=1e-4)
    decoded = decode_deltas(numbers["out.loc"] / torch.tensor([10.0, 10.0, 5.0, 5.0]), corners)
    torch.testing.assert_close(decoded, numbers["out.decoded"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_padded_rows_claim_nothing_and_the_last_of_rivals_wins(compiled: bool) -> None:
    """Compiled the objects come in groups, eagerly one by one."""
    matcher = torch.compile(match_default_boxes, fullgraph=True, backend="eager") if compiled else match_default_boxes
    priors = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 70.0, 70.0], [80.0, 80.0, 90.0, 90.0]]])
    boxes = torch.zeros(1, 8, 4)
    boxes[0, 0] = torch.tensor([49.0, 52.0, 66.0, 66.0])  # prior 1 overlaps it more than the next, but is claimed twice
    boxes[0, 1] = torch.tensor([60.0, 60.0, 75.0, 75.0])
    boxes[0, 2] = torch.tensor([20.0, 20.0, 30.0, 30.0])  # touches none
    valid = torch.arange(8)[None] < 3
    match = matcher(priors, boxes, valid, foreground_iou=0.5)
    assert match.positive.tolist() == [[False, True, False]]
    assert match.row[0, 1] == 1
    assert match.negative.tolist() == [[True, False, True]]


def test_default_boxes_follow_the_image_and_not_its_padding() -> None:
    head = SSDHead(SPEC, CLASSES)
    batch = make_batch([[], []])
    sizes = torch.tensor([[96, 96], [48, 96]])
    first, second = torch.cat(head.default_boxes(outputs_of(head, batch), sizes), dim=1)
    centers = [(x[:, :2] + x[:, 2:]) / 2 for x in (first, second)]
    torch.testing.assert_close(*centers)
    heights = [x[:, 3] - x[:, 1] for x in (first, second)]
    torch.testing.assert_close(heights[0] / 2, heights[1])


@pytest.mark.parametrize("min_negatives", [0, 3, 7])
def test_images_without_objects_teach_as_often_as_asked(min_negatives: int) -> None:
    head = SSDHead(SPEC, CLASSES, min_negatives=min_negatives)
    batch = make_batch([[], []])
    outputs = outputs_of(head, batch)
    losses = head.loss(outputs, batch)
    logits = torch.cat([x.permute(0, 2, 3, 1).reshape(2, -1, CLASSES + 1) for x in outputs.logits], dim=1)
    background = -logits.log_softmax(-1)[..., 0]
    expected = background.sort(dim=1, descending=True).values[:, :min_negatives].sum()
    torch.testing.assert_close(losses["loss_cls"], expected)
    assert losses["loss_box"] == 0


def test_negatives_are_the_hardest_of_each_image() -> None:
    batch = make_batch([[[10.0, 10.0, 40.0, 42.0]], [[5.0, 50.0, 80.0, 90.0], [60.0, 3.0, 75.0, 20.0]]])
    head = SSDHead(SPEC, CLASSES)
    outputs = outputs_of(head, batch)
    leaves = [x.requires_grad_() for x in outputs.logits]
    head.loss(outputs, batch)["loss_cls"].backward()
    taught = torch.cat([x.grad.permute(0, 2, 3, 1).reshape(2, -1, CLASSES + 1) for x in leaves], dim=1).any(-1)
    priors = torch.cat(head.default_boxes(outputs, batch.image_sizes), dim=1)
    match = head.match(priors, batch.targets.boxes, batch.targets.valid)
    negatives = taught & ~match.positive
    assert taught[match.positive].all()
    assert torch.equal(negatives.sum(1), 3 * match.positive.sum(1))
    logits = torch.cat([x.permute(0, 2, 3, 1).reshape(2, -1, CLASSES + 1) for x in leaves], dim=1)
    background = -logits.log_softmax(-1)[..., 0]
    for image in range(2):
        others = ~taught[image]
        assert background[image][negatives[image]].min() > background[image][others].max()


def test_cells_in_the_padding_teach_nothing() -> None:
    head = SSDHead(SPEC, CLASSES, min_negatives=100)
    batch = make_batch([[]])._replace(image_sizes=torch.tensor([[96, 40]]))
    outputs = outputs_of(head, batch)
    leaves = [x.requires_grad_() for x in outputs.logits]
    head.loss(outputs, batch)["loss_cls"].backward()
    for x, stride in zip(leaves, SPEC.strides, strict=True):
        assert not x.grad[..., math.ceil(40 / stride) :].any()
    assert leaves[0].grad[..., :5].any()


def test_padding_rows_change_nothing() -> None:
    head = SSDHead(SPEC, CLASSES)
    boxes = [[[10.0, 10.0, 40.0, 42.0]], [[5.0, 50.0, 80.0, 90.0]]]
    short, long = make_batch(boxes), make_batch(boxes, rows=32)
    long.targets.boxes[:, 20] = torch.tensor([0.0, 0.0, 90.0, 90.0])
    outputs = outputs_of(head, short)
    for name, value in head.loss(outputs, short).items():
        assert torch.equal(value, head.loss(outputs, long)[name])


def test_outputs_that_are_no_numbers_are_seen() -> None:
    head, batch = SSDHead(SPEC, CLASSES), make_batch([[], [], []])
    outputs = outputs_of(head, batch)
    outputs.logits[1][0, 5] = torch.nan
    outputs.deltas[0][1] = torch.inf
    boxes, scores, _, levels = head.candidates(outputs, batch.image_sizes)
    assert boxes.isfinite().all()
    assert [levels[i][scores[i].isnan()].unique().tolist() for i in range(3)] == [[1], [0], []]


def test_learns_to_detect_what_it_is_shown() -> None:
    """The target of training, given as the output, is detected: matching, coding and scores agree with one another."""
    head = SSDHead(SPEC, CLASSES, candidates_per_level=50)
    objects = [[10.0, 10.0, 40.0, 42.0], [50.0, 4.0, 80.0, 60.0]]
    batch = make_batch([objects])
    outputs = outputs_of(head, batch)
    priors = head.default_boxes(outputs, batch.image_sizes)
    match = head.match(torch.cat(priors, dim=1), batch.targets.boxes, batch.targets.valid)
    wanted = batch.targets.boxes[0][match.row[0]]
    wanted = torch.where(match.positive[0, :, None], wanted, torch.cat(priors, dim=1)[0])
    deltas = encode_deltas(wanted, torch.cat(priors, dim=1)[0]) * torch.tensor([10.0, 10.0, 5.0, 5.0])
    classes = torch.where(match.positive[0], batch.targets.labels[0][match.row[0]] + 1, 0)
    logits = torch.nn.functional.one_hot(classes, CLASSES + 1).float() * 30
    maps: list[list[Tensor]] = [[], []]
    start = 0
    for level, prior in zip(outputs.logits, priors, strict=True):
        part = slice(start, start + prior.shape[1])
        start += prior.shape[1]
        for raw, kind in zip((logits, deltas), maps, strict=True):
            kind.append(raw[part].reshape(1, *level.shape[2:], -1).permute(0, 3, 1, 2))
    perfect = SSDOutputs(tuple(maps[0]), tuple(maps[1]))
    losses = head.loss(perfect, batch)
    assert losses["loss_cls"] < 1e-5
    assert losses["loss_box"] < 1e-8
    boxes, scores, labels, _ = head.candidates(perfect, batch.image_sizes)
    found = scores[0] > 0.9
    assert found.sum() == match.positive.sum()
    for box, label in zip(boxes[0][found], labels[0][found], strict=True):
        torch.testing.assert_close(box, torch.tensor(objects[int(label)]), rtol=0, atol=1e-3)


def test_a_single_level_carries_the_boxes_of_all() -> None:
    head = SSDHead(FeatureSpec((4,), (16,)), CLASSES)
    assert head.num_boxes == [30]
    assert "a single level carries the boxes of all" in head.describe()
    assert SSDHead(FeatureSpec((4,), (16,)), CLASSES, scales=[0.1, 0.4, 0.9]).num_boxes == [8]


@pytest.mark.parametrize("levels", [1, 2, 3, 5, 7])
def test_scales_spread_over_any_number_of_levels(levels: int) -> None:
    scales = spread_scales(levels)
    assert len(scales) == levels + 1
    assert (scales[0], scales[-1]) == pytest.approx((COCO_SCALES[0], COCO_SCALES[-1]))
    assert scales == sorted(scales)
    assert len(spread_ratios(levels)) == levels


def test_half_precision_moves_no_default_box() -> None:
    head = SSDHead(SPEC, CLASSES)
    batch = make_batch([[]])
    before = head.default_boxes(outputs_of(head, batch), batch.image_sizes)
    after = head.half().default_boxes(outputs_of(head, batch), batch.image_sizes)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"scales": [0.1, 0.2, 0.3]}, r"3 levels \(strides \(8, 16, 32\)\), which takes 4 scales, but there are 3"),
        ({"aspect_ratios": [[2.0]]}, "takes 3 aspect_ratios, but there are 1"),
        ({"steps": [8, 16]}, "takes 3 steps, but there are 2; null derives"),
        ({"scales": [0.1, 0.2, -0.3, 0.4]}, "must be positive"),
        ({"score_threshold": 1.0}, "score_threshold must lie in"),
        ({"coder_weights": (10.0, 10.0, 0.0, 5.0)}, "coder_weights must be positive"),
        ({"min_negatives": -1}, "min_negatives must be at least 0"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SSDHead(SPEC, **{"num_classes": CLASSES, **options})
