"""What lies between two stages: proposals, samples, pooling; and what Faster R-CNN promises as a head."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_dense_heads import BOXES, CLASSES, batch_of, maps
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, nms

from detfuse.detector import Detector
from detfuse.heads.faster_rcnn import FasterRCNNHead
from detfuse.heads.pooling import level_places, pool_rois
from detfuse.heads.proposals import Proposals, draw_sample, propose, sample_rois
from detfuse.inspect.cost import trace
from detfuse.ops.postprocess import Nms
from detfuse.ops.suppression import best_apart
from detfuse.protocols import Head
from detfuse.structures import FeatureSpec

SPEC = FeatureSpec((16, 16), (8, 16))
SIZES = torch.tensor([[64, 96]] * 2)
SMALL = {"box_channels": 16, "train_proposals": 40, "proposals": 30}
VARIANTS = pytest.mark.parametrize(
    "variant",
    [{}, {"rpn_convs": 2, "box_convs": 2, "box_fcs": 1, "box_norm": "batch"}, {"box_fcs": 0, "roi_levels": [4]}],
)


def seeded(**options: Any) -> FasterRCNNHead:
    torch.manual_seed(0)
    return FasterRCNNHead(SPEC, CLASSES, **{**SMALL, **options})


def random_boxes(count: int, seed: int = 0) -> Tensor:
    """(2, count, 4), from a pixel to larger than the image."""
    generator = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(2, 2, count, 2, generator=generator)
    return torch.cat([corner * 90, corner * 90 + side**3 * 900 + 1], dim=-1)


# ---- proposals


def test_proposals_are_the_best_that_no_better_one_of_their_level_overlaps() -> None:
    boxes, levels = random_boxes(60) * 0.3, torch.arange(60).expand(2, -1) % 3
    scores = torch.rand(2, 60, generator=torch.Generator().manual_seed(1))
    scores[1, 30:] = 0.0
    found = propose((boxes, scores, levels, levels), limit=60, iou_threshold=0.3)
    alone = propose((boxes, scores, levels, levels), limit=60, iou_threshold=0.3, across_levels=True)
    few = propose((boxes, scores, levels, levels), limit=5, iou_threshold=0.3)
    for i in range(2):
        kept = [
            rows[nms(boxes[i, rows], scores[i, rows], 0.3)]
            for rows in (((levels[i] == level) & (scores[i] > 0)).nonzero().flatten() for level in range(3))
        ]
        best = torch.cat(kept)[scores[i, torch.cat(kept)].argsort(descending=True)]
        assert found.scores[i, : len(best)].equal(scores[i, best])
        assert found.boxes[i, : len(best)].equal(boxes[i, best])
        assert not found.scores[i, len(best) :].any()
        assert 3 < (alone.scores[i] > 0).sum() < len(best) < 60
        assert few.boxes[i].equal(boxes[i, best[:5]])
    assert found.boxes.shape == (2, 60, 4)


class Apart(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        return best_apart(boxes, scores, levels, iou_threshold=0.3, limit=18)


def test_what_is_no_number_stays_among_the_proposals_and_an_exported_loop_says_the_same() -> None:
    generator = torch.Generator().manual_seed(2)
    boxes, scores = random_boxes(20), torch.rand(2, 20, generator=generator)
    levels = torch.arange(20).expand(2, -1) % 2
    for row in (7, 9):  # of one level
        boxes[0, row], scores[0, row] = 0.0, torch.nan
    rows, taken = Apart()(boxes, scores, levels)
    assert set(rows[0, :2].tolist()) == {7, 9}
    assert taken.isnan().tolist() == [[True, True, *[False] * 16], [False] * 18]
    assert (taken == 0).any(), "suppressed"
    exported = torch.export.export(Apart(), (boxes, scores, levels.clone()))
    same_rows, same = exported.module()(boxes, scores, levels)
    torch.testing.assert_close(same, taken, rtol=0, atol=0, equal_nan=True)
    assert same_rows[taken > 0].equal(rows[taken > 0])


# ---- samples


def test_a_sample_has_its_size_and_at_most_its_share_of_positives() -> None:
    positive = torch.zeros(3, 100, dtype=torch.bool)
    positive[0, :50], positive[1, 10:14] = True, True
    sample = draw_sample(positive, ~positive, 20, 0.25)
    drawn = positive.gather(1, sample.rows) & sample.taken
    assert sample.taken.all()
    assert drawn.sum(1).tolist() == [5, 4, 0]
    assert all(len(rows.unique()) == 20 for rows in sample.rows)
    again = draw_sample(positive, ~positive, 20, 0.25)
    assert not again.rows[0].sort().values.equal(sample.rows[0].sort().values), "drawn anew each time"


def test_a_sample_of_too_few_takes_them_all_and_repeats_them() -> None:
    positive, negative = torch.zeros(2, 30, dtype=torch.bool), torch.zeros(2, 30, dtype=torch.bool)
    positive[0, :2], negative[0, 5:9] = True, True
    rows, taken = draw_sample(positive, negative, 16, 0.5)
    assert taken.sum(1).tolist() == [6, 0]
    assert rows[0, :6].sort().values.tolist() == [0, 1, 5, 6, 7, 8]
    assert set(rows[0, 6:].tolist()) <= {0, 1, 5, 6, 7, 8}


def test_regions_learn_what_they_overlap() -> None:
    near, in_crowd, between = (5.0, 6.0, 41.0, 50.0), (0.0, 0.0, 9.0, 9.0), (4.0, 6.0, 40.0, 20.0)
    none = [(0.0, 0.0, 2.0, 2.0), (4.0, 6.0, 40.0, 49.0)]  # no proposals, though one overlaps an object
    proposals = Proposals(torch.tensor([[near, in_crowd, between, *none]]), torch.tensor([[0.9, 0.8, 0.7, 0.0, 0.0]]))
    batch = batch_of([BOXES[0]])
    ignore = batch.targets.ignore.clone()
    boxes = batch.targets.boxes.clone()
    boxes[0, 7], ignore[0, 7] = torch.tensor([0.0, 0.0, 10.0, 10.0]), True
    batch = batch._replace(targets=batch.targets._replace(boxes=boxes, ignore=ignore))

    def drawn(crowd: Any) -> dict[tuple[float, ...], int]:
        rois = sample_rois(
            proposals, batch, foreground_iou=0.5, background_iou=0.3, crowd=crowd, size=48, positive_fraction=0.25
        )
        assert torch.equal(rois.positive, rois.taken & (rois.classes > 0))
        table = zip(rois.boxes[rois.taken].tolist(), rois.classes[rois.taken].tolist(), strict=True)
        return {tuple(box): learnt for box, learnt in table}

    objects = {tuple(box): i + 1 for i, box in enumerate(BOXES[0])}
    assert drawn("background") == {near: 1, in_crowd: 0, **objects}
    assert drawn("ignore") == {near: 1, **objects}


# ---- pooling


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 16, 32, 64, 128), (16,)])
def test_pooling_equals_torchvision(strides: tuple[int, ...]) -> None:
    side, boxes = 256, random_boxes(50).clamp(max=255.0)
    levels = [torch.randn(2, 3, side // s, side // s, requires_grad=True) for s in strides]
    reference = MultiScaleRoIAlign([str(s) for s in strides], 5, 2)
    expected = reference(
        {str(s): x for s, x in zip(strides, levels, strict=True)}, list(boxes.unbind()), [(side, side)] * 2
    )
    for function in (pool_rois, torch.compile(pool_rois, fullgraph=True, backend="eager")):
        torch._dynamo.reset()
        found = function(levels, strides, boxes, size=5, sampling_ratio=2)
        assert torch.equal(found, expected)
        ours, theirs = (torch.autograd.grad(x.square().sum(), levels, retain_graph=True) for x in (found, expected))
        torch.testing.assert_close(ours, theirs)


def test_a_missing_level_is_taken_by_the_next_finer_one() -> None:
    sides = torch.tensor([10.0, 111.9, 112.0, 223.9, 224.0, 448.0, 896.0, 5000.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=-1)[None]
    assert level_places(boxes, [2, 3, 4, 5]).tolist() == [[0, 0, 1, 1, 2, 3, 3, 3]]
    assert level_places(boxes, [3, 6]).tolist() == [[0] * 6 + [1, 1]]


# ---- the head


class Stem(nn.Module):
    """Images to two maps of 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.out_spec = SPEC
        self.layers = nn.ModuleList(nn.Conv2d(3, 16, s, s) for s in SPEC.strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [layer(images) for layer in self.layers]


def test_what_it_costs_grows_with_the_proposals_by_what_the_second_stage_takes() -> None:
    def cost(proposals: int) -> Any:
        detector: Any = Detector(Stem(), nn.Identity(), seeded(proposals=proposals))  # type: ignore[arg-type]  # no neck
        return trace(detector, (64, 96)).costs

    few, many = cost(30), cost(90)
    for part, layers in {"head.box_head": 16 * 49 * 16 + 16 * 16, "head.cls_logits": 16 * 4, "head": 0}.items():
        expected = 60 * 2 * (layers or 16 * 49 * 16 + 16 * 16 + 16 * 4 + 16 * 12)
        assert many[part].flops - few[part].flops == expected
    assert many[""].flops - few[""].flops == many["head"].flops - few["head"].flops


@VARIANTS
def test_it_is_a_head_that_learns(variant: dict[str, Any]) -> None:
    head = seeded(**variant)
    assert isinstance(head, Head)
    assert head.compilable
    losses = head.loss(head(maps()), batch_of(BOXES))
    assert [loss.dtype for loss in losses.values()] == [torch.float32] * 4
    sum(losses.values()).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@VARIANTS
def test_a_batch_without_objects_teaches_background_only(variant: dict[str, Any]) -> None:
    head = seeded(**variant)
    losses = head.loss(head(maps()), batch_of([[], []]))
    assert losses["loss_rpn_cls"] > 0
    assert losses["loss_cls"] > 0
    assert losses["loss_rpn_box"] == losses["loss_box"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_a_batch_of_nothing_but_crowd_teaches_nothing() -> None:
    head, batch = seeded(), batch_of([[], []])
    boxes, ignore = batch.targets.boxes.clone(), batch.targets.ignore.clone()
    boxes[:, 0], ignore[:, 0] = torch.tensor([0.0, 0.0, 96.0, 64.0]), True
    crowded = batch._replace(targets=batch.targets._replace(boxes=boxes, ignore=ignore))
    losses = head.loss(head(maps()), crowded)
    assert [loss.item() for loss in losses.values()] == [0.0] * 4
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
    assert seeded(crowd="background").loss(head(maps()), crowded)["loss_cls"] > 0


def test_padded_rows_of_objects_and_of_proposals_weigh_nothing() -> None:
    everything = {"rpn_samples": 5000, "samples": 5000, "proposal_iou": 1.0}
    few, many = (seeded(train_proposals=count, **everything) for count in (2000, 4000))
    expected = few.loss(few(maps()), batch_of(BOXES))
    for name, value in many.loss(many(maps()), batch_of(BOXES, rows=16)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=0)


def test_candidates_lie_in_their_image_and_padding_does_not_compete() -> None:
    head = seeded(score_threshold=0.0, box_norm="group", box_convs=1)
    sizes = torch.tensor([[40, 50], [64, 96]])
    boxes, scores, labels, levels = head.candidates(head(maps()), sizes)
    assert boxes.shape == (2, 90, 4)
    assert scores.shape == labels.shape == levels.shape == (2, 90)
    assert labels.max() < CLASSES
    kept = boxes[0][scores[0] > 0]
    assert len(kept) > 10
    assert (kept[:, 2] <= 50).all()
    assert (kept[:, 3] <= 40).all()
    # the same proposals whatever stands in cells that lie wholly in the padding: 40x50 pixels are 5x7 and 3x4 cells
    outputs = head(maps())
    with torch.no_grad():
        for level, (height, width) in zip(outputs.logits, [(5, 7), (3, 4)], strict=True):
            level[0, :, height:] = 50.0
            level[0, :, :, width:] = torch.nan
    assert torch.equal(head.candidates(outputs, sizes)[1], scores)


def test_padding_teaches_no_background() -> None:
    head, batch = seeded(rpn_samples=5000), batch_of([[], []])
    sizes = torch.tensor([[40, 50], [64, 96]])
    outputs = head(maps())
    losses = head.loss(outputs, batch._replace(image_sizes=sizes))
    finest = torch.autograd.grad(losses["loss_rpn_cls"], outputs.logits[0])[0]
    taught = torch.zeros(2, 8, 12, dtype=torch.bool)
    taught[0, :5, :7], taught[1] = True, True
    assert torch.equal(finest.any(1), taught)


def test_a_candidate_says_which_level_it_was_pooled_from() -> None:
    spec = FeatureSpec((16,) * 3, (4, 8, 16))
    head = FasterRCNNHead(spec, CLASSES, score_threshold=0.0, roi_levels=[2, 4], anchor_scale=16, **SMALL)
    features = [torch.randn(2, 16, 64 // s, 96 // s) for s in spec.strides]
    _, scores, _, levels = head.candidates(head(features), SIZES)
    assert set(levels[scores > 0].tolist()) == {0}, "no region of an image of 96 pixels is for P4"
    with torch.no_grad():
        head.rpn.box_deltas.bias.fill_(3.0)
    features = [torch.randn(2, 16, 1024 // s, 1024 // s) for s in spec.strides]
    levels = head.candidates(head(features), torch.tensor([[1024, 1024]] * 2))[3]
    assert set(levels.flatten().tolist()) == {2}, "a place among the neck's levels, not among those pooled from"


@pytest.mark.parametrize("where", ["objectness", "maps"])
def test_outputs_that_are_no_numbers_are_seen(where: str) -> None:
    head = seeded()
    features = maps()
    if where == "maps":
        features[0][0] = torch.nan
    outputs = head(features)
    if where == "objectness":
        outputs.logits[0].detach()[0, 0, 2, 2] = torch.nan
    found = [Nms()(*image) for image in zip(*head.candidates(outputs, SIZES), strict=True)]
    assert all(image.boxes.isfinite().all() for image in found)
    assert [image.broken for image in found] == [True, False]
    assert not sum(head.loss(head(features), batch_of(BOXES)).values()).isfinite() or where == "objectness"


def test_the_loss_is_float32_under_autocast() -> None:
    head = seeded(rpn_samples=5000, samples=5000, train_proposals=5000, proposal_iou=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = head(maps())
        losses = head.loss(outputs, batch_of(BOXES))
        scores = head.candidates(outputs, SIZES)[1]
    assert outputs.logits[0].dtype == torch.bfloat16
    assert {value.dtype for value in (*losses.values(), scores)} == {torch.float32}
    exact = head.loss(head(maps()), batch_of(BOXES))
    for name, value in losses.items():
        torch.testing.assert_close(value, exact[name], rtol=0.05, atol=1e-3)


def test_half_precision_weights_pool_from_exact_boxes() -> None:
    head = seeded(score_threshold=0.0).bfloat16()
    boxes = head.candidates(head([x.bfloat16() for x in maps()]), SIZES)[0]
    assert boxes.dtype == torch.float32
    assert boxes.frac().unique().numel() > 20


def test_it_learns_a_scene() -> None:
    head, features, batch = seeded(box_channels=32, samples=64, rpn_samples=64), maps(), batch_of(BOXES)
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


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match=r"roi_levels=\[2, 3\], but the neck gives the levels \[3, 4\]"):
        seeded(roi_levels=[2, 3])
    with pytest.raises(ValueError, match=r"rpn_background_iou=0\.8 must not be above rpn_foreground_iou=0\.7"):
        seeded(rpn_background_iou=0.8)
    with pytest.raises(ValueError, match="coder_weights takes four numbers"):
        seeded(coder_weights=[10.0])
    with pytest.raises(ValueError, match=r"FasterRCNNHead shares one tower.*neck=fpn"):
        FasterRCNNHead(FeatureSpec((8, 16), (8, 16)), CLASSES)


def test_it_is_described() -> None:
    assert seeded().describe() == (
        "Faster R-CNN: 2 levels, 3 anchors per cell, sizes 32 to 64 px; 30 proposals, pooled from P3 P4 to 7 x 7"
    )
    assert (
        "15 anchors per cell (a single level carries the anchors of all)"
        in FasterRCNNHead(FeatureSpec((16,), (math.prod((4, 4)),)), CLASSES).describe()
    )
