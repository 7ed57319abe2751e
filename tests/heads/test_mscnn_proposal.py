from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from detfuse.heads.mscnn_proposal import MSCNNProposalHead, MSCNNProposalOutputs
from detfuse.ops.boxes import encode_deltas
from detfuse.structures import Batch, FeatureSpec, Targets

PUBLISHED = FeatureSpec((3, 4, 5, 6), (8, 16, 32, 64))
SPEC = FeatureSpec((4, 6), (8, 16))
CLASSES = 2
SIDE = 32  # maps of 4 x 4 and 2 x 2 cells


def batch_of(objects: list[list[list[float]]], crowds: list[list[float]] | None = None) -> Batch:
    """Images with these objects, and the first of them with these crowds; classes 0, 1, 0 ..."""
    count = len(objects)
    boxes, valid = torch.zeros(count, 8, 4), torch.zeros(count, 8, dtype=torch.bool)
    ignore = torch.zeros_like(valid)
    for image, of_image in enumerate(objects):
        for row, box in enumerate(of_image):
            boxes[image, row], valid[image, row] = torch.tensor(box), True
    for row, box in enumerate(crowds or [], start=4):
        boxes[0, row], ignore[0, row] = torch.tensor(box), True
    labels = (torch.arange(8) % CLASSES).expand(count, 8) * valid
    sizes = torch.tensor([[SIDE, SIDE]] * count)
    images = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8)
    return Batch(images, sizes, sizes, torch.ones(count, 2), torch.arange(count), Targets(boxes, labels, valid, ignore))


def outputs_of(head: MSCNNProposalHead, images: int) -> MSCNNProposalOutputs:
    torch.manual_seed(0)
    sizes = [SIDE // stride for stride in head.in_spec.strides]
    maps = [
        tuple(
            torch.randn(images, n * depth, s, s).requires_grad_()
            for n, s in zip(head.priors_per_cell, sizes, strict=True)
        )
        for depth in (CLASSES + 1, 4)
    ]
    return MSCNNProposalOutputs(*maps)


def test_the_branches_are_those_of_the_paper() -> None:
    """Kernels, templates (KITTI's cars at 576 and 384 pixels) and channels (K + 1 and the box)."""
    head = MSCNNProposalHead(PUBLISHED, CLASSES)
    templates = [[branch.template for branch in level] for level in head.layout]
    assert templates == [[(s, s) for s in level] for level in ([60, 84], [120, 168], [240, 336], [480])]
    at_384 = MSCNNProposalHead(PUBLISHED, CLASSES, template_scale=1.0).layout
    assert [branch.template[0] for level in at_384 for branch in level] == [40, 56, 80, 112, 160, 224, 320]
    shapes = [[tuple(branch.weight.shape) for branch in level] for level in head.branches]  # type: ignore[union-attr]
    depth = CLASSES + 1 + 4
    assert shapes == [[(depth, c, k, k) for k in (5, 7)] for c in (3, 4, 5)] + [[(depth, 6, 5, 5)]]
    weights = [weight for weight in head.parameters() if weight.ndim == 4]
    assert len({weight.data_ptr() for weight in weights}) == 8, "seven branches and the buffer, none shared"


def test_pedestrians_have_kernels_and_templates_as_tall_as_they_are() -> None:
    """The published ones of Caltech on one level: 5 high and 3 wide for 40 x 20 pixels, 7 and 5 for 56 x 28."""
    head = MSCNNProposalHead(
        FeatureSpec((4,), (8,)), CLASSES, kernel_sizes=[[(5, 3), (7, 5)]], template_sizes=[[(40, 20), (56, 28)]]
    )
    (templates,) = head.templates(outputs_of(head, 1))
    size = (templates[:, 2:] - templates[:, :2]).unique(dim=0)
    assert size.tolist() == [[20, 40], [28, 56]]
    assert (templates[0, :2] + templates[0, 2:]).tolist() == [8, 8], "in the middle of the first cell"


def test_a_branch_sees_its_kernel_and_the_first_level_its_buffer_too() -> None:
    head = MSCNNProposalHead(FeatureSpec((4, 6), (8, 16)), CLASSES, kernel_sizes=[[(5, 3)], [(7, 5)]])
    features = [torch.ones(1, c, 15, 15, requires_grad=True) for c in SPEC.channels]
    with torch.no_grad():
        for weight in head.parameters():
            weight.fill_(0.1)  # nothing dies in the buffer's ReLU
    outputs = head(features)
    for x, raw, wanted in zip(features, outputs.logits, ((7, 5), (7, 5)), strict=True):
        (seen,) = torch.autograd.grad(raw[0, 0, 7, 7], x, retain_graph=True)
        place = seen[0, 0].nonzero()
        assert tuple((place.max(0).values - place.min(0).values + 1).tolist()) == wanted


def by_hand(
    head: MSCNNProposalHead, outputs: MSCNNProposalOutputs, batch: Batch, box_weight: float
) -> dict[str, float]:
    """The bootstrapped loss by the definition, template by template, in plain Python."""
    ratio, positives_of = 2.0, 0.5
    total = {"loss_cls": 0.0, "loss_box": 0.0}
    flat = [level.tolist() for level in head.templates(outputs)]
    boxes = [
        [b for b, v in zip(*of_image, strict=True) if v]
        for of_image in zip(batch.targets.boxes.tolist(), batch.targets.valid.tolist(), strict=True)
    ]
    labels = batch.targets.labels.tolist()

    def iou(a: list[float], b: list[float]) -> float:
        shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        return shared / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - shared)

    best = [[max(iou(box, t) for level in flat for t in level) for box in of_image] for of_image in boxes]
    for level, n in enumerate(head.priors_per_cell):
        for branch in range(n):
            foreground, background, distance = [], [], []
            for image, of_image in enumerate(boxes):
                losses = []
                for place, template in enumerate(flat[level][branch::n]):
                    row, column = divmod(place, SIDE // head.in_spec.strides[level])
                    logits = outputs.logits[level][image, branch * 3 : branch * 3 + 3, row, column].tolist()
                    deltas = outputs.deltas[level][image, branch * 4 : branch * 4 + 4, row, column].tolist()
                    norm = math.log(sum(map(math.exp, logits)))
                    overlaps = [iou(box, template) for box in of_image]
                    top = max(overlaps, default=0.0)
                    claimed = any(o >= b * (1 - 1e-6) for o, b in zip(overlaps, best[image], strict=True))
                    if top >= positives_of or claimed:
                        object_ = overlaps.index(top)
                        foreground.append(norm - logits[1 + labels[image][object_]])
                        wanted = encode_deltas(torch.tensor(of_image[object_]), torch.tensor(template)).tolist()
                        off = [abs(d - w) for d, w in zip(deltas, wanted, strict=True)]
                        distance.append(sum(d * d / 2 if d < 1 else d - 0.5 for d in off) / 4)
                    else:
                        losses.append((norm - logits[0], top < 0.2))
                count = sum(1 for _ in flat[level][branch::n]) - len(losses)
                allowed = sorted((loss for loss, far in losses if far), reverse=True)
                background += allowed[: max(4, int(ratio * count))]
            weight = 0.9 if level == 0 else 1.0
            for values, share in ((foreground, 1 / 3), (background, 2 / 3)):
                total["loss_cls"] += weight * share * sum(values) / max(1, len(values))
            total["loss_box"] += weight * box_weight * sum(distance) / max(1, len(distance))
    return total


@pytest.mark.parametrize("box_weight", [0.05, 1.0])
def test_losses_are_those_computed_by_hand(box_weight: float) -> None:
    head = MSCNNProposalHead(SPEC, CLASSES, template_scale=0.25, box_weight=box_weight)  # 10, 14 and 20 pixels
    batch = batch_of([[[3.0, 2.0, 13.0, 13.0], [12.0, 8.0, 31.0, 28.0]], [[18.0, 17.0, 22.0, 20.0]], []])
    outputs = outputs_of(head, 3)
    losses = {name: loss.item() for name, loss in head.loss(outputs, batch).items()}
    assert losses == pytest.approx(by_hand(head, outputs, batch, box_weight), rel=1e-5)
    assert losses["loss_box"] > 0


def taught(head: MSCNNProposalHead, batch: Batch) -> list[Tensor]:
    """Per branch (B, H * W), where the logits got a gradient."""
    outputs = outputs_of(head, len(batch.images))
    head.loss(outputs, batch)["loss_cls"].backward()
    found = []
    for raw in outputs.logits:
        assert raw.grad is not None
        found += [x.flatten(2).any(1) for x in raw.grad.split(CLASSES + 1, dim=1)]
    return found


@pytest.mark.parametrize("sampler", ["random", "bootstrap", "mixture"])
def test_every_branch_draws_negatives_by_its_own_positives(sampler: str) -> None:
    head = MSCNNProposalHead(
        SPEC, CLASSES, template_scale=0.25, sampler=sampler, negative_ratio=1.0, min_negatives=2, background_iou=0.5
    )
    batch = batch_of([[[7.0, 7.0, 17.0, 17.0], [15.0, 7.0, 25.0, 17.0], [7.0, 15.0, 17.0, 25.0]], []])
    outputs, targets = outputs_of(head, 2), batch.targets
    positive = head.match(torch.cat(head.templates(outputs)), targets.boxes, targets.valid).positive
    counts = []
    per_branch = [branch for level in head.by_branch(outputs, positive) for branch in level.unbind(1)]
    for branch, objects in zip(taught(head, batch), per_branch, strict=True):
        assert branch[objects].all()
        counts.append((branch & ~objects).sum(1).tolist())
        room = objects.shape[1] - int(objects[0].sum())
        assert counts[-1] == [min(room, max(2, int(objects[0].sum()))), 2]
    assert len({first for first, _ in counts}) > 1, "branches with other numbers of positives"


def test_nothing_is_learnt_in_crowds_nor_in_the_padding() -> None:
    batch = batch_of([[], []], crowds=[[0.0, 0.0, 32.0, 32.0]])._replace(image_sizes=torch.tensor([[32, 32], [32, 9]]))
    everything = MSCNNProposalHead(SPEC, CLASSES, template_scale=0.25, min_negatives=100)
    for branch, side in zip(taught(everything, batch), (4, 4, 2), strict=True):
        assert not branch[0].any()
        assert branch[1].reshape(side, side)[:, : math.ceil(9 * side / 32)].all()
        assert not branch[1].reshape(side, side)[:, math.ceil(9 * side / 32) :].any()
    everything.crowd = "background"
    assert all(branch[0].all() for branch in taught(everything, batch))


def test_without_objects_every_parameter_learns() -> None:
    head = MSCNNProposalHead(SPEC, CLASSES)
    features = [torch.rand(2, c, SIDE // s, SIDE // s) for c, s in zip(SPEC.channels, SPEC.strides, strict=True)]
    losses = head.loss(head(features), batch_of([[], []]))
    assert losses["loss_box"] == 0
    sum(losses.values()).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in head.parameters())
    assert all(branch.weight.grad[: CLASSES + 1].any() for level in head.branches for branch in level)


def test_learns_to_detect_what_it_is_shown() -> None:
    """The target of training, given as the output, is detected: matching, coding and scores agree with one another."""
    head = MSCNNProposalHead(SPEC, CLASSES, template_scale=0.25)
    objects = [[2.0, 2.0, 12.0, 12.0], [13.0, 13.0, 32.0, 31.0]]
    batch = batch_of([objects])
    outputs, targets = outputs_of(head, 1), batch.targets
    templates = torch.cat(head.templates(outputs))
    match = head.match(templates, targets.boxes, targets.valid)
    row, positive = match.row[0], match.positive[0]
    deltas = torch.where(positive[:, None], encode_deltas(targets.boxes[0][row], templates), 0.0)
    logits = torch.nn.functional.one_hot(torch.where(positive, targets.labels[0][row] + 1, 0), CLASSES + 1) * 30.0
    maps = []
    for table in (logits, deltas):
        parts = table.split([16 * 2, 4], dim=0)
        maps.append(tuple(x.reshape(1, s, s, -1).permute(0, 3, 1, 2) for x, s in zip(parts, (4, 2), strict=True)))
    perfect = MSCNNProposalOutputs(*maps)
    assert all(loss < 1e-5 for loss in head.loss(perfect, batch).values())
    boxes, scores, labels, levels = head.candidates(perfect, batch.image_sizes)
    found = scores[0] > 0.9
    assert found.sum() == positive.sum()
    assert levels[0][found].unique().tolist() == [0, 1]
    for box, label in zip(boxes[0][found], labels[0][found], strict=True):
        torch.testing.assert_close(box, torch.tensor(objects[int(label)]), rtol=0, atol=1e-3)


def test_a_single_level_carries_the_branches_of_all() -> None:
    head = MSCNNProposalHead(FeatureSpec((4,), (16,)), CLASSES)
    assert head.priors_per_cell == [7]
    assert [branch.template[0] for branch in head.layout[0]] == [60, 84, 120, 168, 240, 336, 480]
    assert "7 branches (a single level carries those of all)" in head.describe()
    assert MSCNNProposalHead(FeatureSpec((4,), (16,)), CLASSES, single_level_templates=[4, 5]).priors_per_cell == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_sizes": [[(5, 5)]]}, r"2 levels \(strides \(8, 16\)\), so kernel_sizes takes .* but there are 1"),
        ({"kernel_sizes": [[(5, 5)], []]}, "kernel_sizes takes at least 1, 1 .* but there are 1, 0"),
        ({"kernel_sizes": [[(4, 5)], [(5, 5)]]}, "odd"),
        ({"template_sizes": [[(9, 9)], [(9, 9)]]}, "template_sizes takes 2, 1 .* but there are 1, 1"),
        ({"background_iou": 0.6}, "background_iou=0.6 must not be above foreground_iou=0.5"),
        ({"sampler": "hardest"}, "sampler must"),
        ({"single_level_templates": []}, "at least one level"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MSCNNProposalHead(SPEC, CLASSES, **options)
