"""What every dense head does with crowds: no background is learnt there, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from detfuse.heads.anchored import AnchoredHead
from detfuse.heads.dense import by_prior
from detfuse.heads.efficientdet import EfficientDetHead
from detfuse.heads.fcos import FCOSHead
from detfuse.heads.retinanet import RetinaNetHead
from detfuse.heads.ssd import SSDHead
from detfuse.structures import Batch, FeatureSpec, Targets

SPEC = FeatureSpec((4, 4), (8, 16))
CLASSES = 3
HEIGHT, WIDTH = 64, 96
WHOLE = [0.0, 0.0, float(WIDTH), float(HEIGHT)]
LEFT = [0.0, 0.0, 50.0, float(HEIGHT)]
OBJECTS = [[6.0, 8.0, 30.0, 40.0], [60.0, 20.0, 90.0, 50.0]]  # one within LEFT, one beside it

Make = Callable[..., Any]


def all_negatives(spec: FeatureSpec, classes: int, **options: Any) -> SSDHead:
    """SSD that learns every negative, so that mining does not hide which of them it may choose from."""
    return SSDHead(spec, classes, **{"min_negatives": 100_000, **options})


HEADS = pytest.mark.parametrize("make", [FCOSHead, RetinaNetHead, EfficientDetHead, all_negatives])


def batch_of(objects: list[list[float]], crowds: list[list[float]], rows: int = 16) -> Batch:
    """Two images: these objects and crowds, and nothing; rows beyond are padding, though not of zeros."""
    boxes = torch.tensor(WHOLE).repeat(2, rows, 1)
    labels = torch.zeros(2, rows, dtype=torch.int64)
    valid, ignore = torch.zeros(2, rows, dtype=torch.bool), torch.zeros(2, rows, dtype=torch.bool)
    for row, box in enumerate([*objects, *crowds]):
        boxes[0, row] = torch.tensor(box)
        (valid if row < len(objects) else ignore)[0, row] = True
    sizes = torch.tensor([[HEIGHT, WIDTH]] * 2)
    images = torch.zeros(2, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    return Batch(images, sizes, sizes, torch.ones(2, 2), torch.arange(2), Targets(boxes, labels, valid, ignore))


def random_outputs(head: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    empty = head([torch.zeros(2, 4, HEIGHT // s, WIDTH // s) for s in SPEC.strides])
    return type(empty)(*(tuple(torch.randn_like(x).requires_grad_() for x in field) for field in empty))


def learnt(head: Any, batch: Batch, outputs: Any = None) -> tuple[dict[str, Tensor], Tensor]:
    """The losses, and the gradient of the class logits, (B, A, K)."""
    outputs = outputs or random_outputs(head)
    losses = head.loss(outputs, batch)
    gradients = torch.autograd.grad(sum(losses.values()), outputs.logits)
    depth = CLASSES + isinstance(head, SSDHead)
    return losses, torch.cat([by_prior(x, depth) for x in gradients], dim=1)


def in_crowd(head: Any, crowd: list[float], batch: Batch) -> Tensor:
    """(A,) by the definition, prior by prior."""
    outputs = random_outputs(head)
    if isinstance(head, FCOSHead):
        x, y = torch.cat(head.points(outputs)).unbind(1)
        return (x >= crowd[0]) & (x < crowd[2]) & (y >= crowd[1]) & (y < crowd[3])
    anchors = head.anchors(outputs) if isinstance(head, AnchoredHead) else head.default_boxes(outputs, batch[1])
    priors = torch.cat([level[0] if level.ndim == 3 else level for level in anchors])
    found = []
    for box in priors.tolist():
        seen = [max(box[0], 0), max(box[1], 0), min(box[2], WIDTH), min(box[3], HEIGHT)]
        sides = [min(seen[i + 2], crowd[i + 2]) - max(seen[i], crowd[i]) for i in (0, 1)]
        area = max(seen[2] - seen[0], 0) * max(seen[3] - seen[1], 0)
        found.append(max(sides[0], 0) * max(sides[1], 0) > 0.5 * area)
    return torch.tensor(found)


@HEADS
def test_an_image_that_is_all_crowd_teaches_no_background(make: Make) -> None:
    head, batch = make(SPEC, CLASSES), batch_of([], [WHOLE])
    _, gradient = learnt(head, batch)
    assert not gradient[0].any()
    assert gradient[1].any(-1).all(), "the other image has no crowd"
    both = batch.targets._replace(ignore=batch.targets.ignore[:1].expand(2, -1))
    losses, gradient = learnt(head, batch._replace(targets=both))
    assert [loss.item() for loss in losses.values()] == [0.0] * len(losses)
    assert not gradient.any()


@HEADS
def test_a_crowd_is_background_if_asked(make: Make) -> None:
    head = make(SPEC, CLASSES, crowd="background")
    for objects in ([], OBJECTS):
        losses, gradient = learnt(head, batch_of(objects, [WHOLE, LEFT]))
        expected, without = learnt(head, batch_of(objects, []))
        assert losses == expected
        assert torch.equal(gradient, without)


@HEADS
def test_only_the_background_within_the_crowd_is_spared(make: Make) -> None:
    batch = batch_of(OBJECTS, [LEFT])
    before, taught = learnt(make(SPEC, CLASSES, crowd="background"), batch)
    head = make(SPEC, CLASSES)
    after, gradient = learnt(head, batch)
    crowded = in_crowd(head, LEFT, batch)
    positive = learns_an_object(head, batch)
    assert (crowded & positive).any()
    assert (crowded & ~positive).any()
    assert (~crowded & ~positive).any()
    spared = crowded & ~positive
    assert not gradient[0, spared].any()
    assert torch.equal(gradient[0, ~spared], taught[0, ~spared]), "the sums are divided as before"
    assert torch.equal(gradient[1], taught[1])
    assert after["loss_cls"] < before["loss_cls"]
    assert {name: loss for name, loss in after.items() if name != "loss_cls"} == {
        name: loss for name, loss in before.items() if name != "loss_cls"
    }


def learns_an_object(head: Any, batch: Batch) -> Tensor:
    """(A,) of the first image."""
    outputs, targets = random_outputs(head), batch.targets
    if isinstance(head, FCOSHead):
        priors: Any = head.points(outputs)
    elif isinstance(head, AnchoredHead):
        priors = torch.cat(head.anchors(outputs))
    else:
        priors = torch.cat(head.default_boxes(outputs, batch.image_sizes), dim=1)
    positive: Tensor = head.match(priors, targets.boxes, targets.valid).positive[0]
    return positive


def test_hard_negatives_are_sought_outside_crowds() -> None:
    """Even where those within are harder, and as many as the positives ask for."""
    head, batch = SSDHead(SPEC, CLASSES), batch_of(OBJECTS, [LEFT])
    outputs = random_outputs(head)
    with torch.no_grad():
        for level in outputs.logits:
            level[0, :, :, : level.shape[-1] // 2] *= 10.0
    _, gradient = learnt(head, batch, outputs)
    taught = gradient[0].any(-1)
    positive, crowded = learns_an_object(head, batch), in_crowd(head, LEFT, batch)
    negative = taught & ~positive
    assert taught[positive].all()
    assert negative.sum() == 3 * positive.sum()
    assert not (negative & crowded).any()


@pytest.mark.parametrize("make", [FCOSHead, RetinaNetHead, SSDHead])
def test_mistakes_are_told(make: Make) -> None:
    with pytest.raises(ValueError, match="crowd must be ignore or background, got 'ignored'"):
        make(SPEC, CLASSES, crowd="ignored")
    with pytest.raises(ValueError, match="normalizer must be all or process, got None"):
        make(SPEC, CLASSES, normalizer=None)
