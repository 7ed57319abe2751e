from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from detfuse import losses
from detfuse.losses import focal_loss, giou_loss

CLASSES, SHAPES = 3, [(2, 7, 2), (2, 3, 2)]


def scene() -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(*shape, CLASSES, generator=generator) * 4 for shape in SHAPES]
    labels = torch.randint(0, CLASSES, (2, 20), generator=generator)
    positive = torch.rand(2, 20, generator=generator) < 0.3
    weight = torch.rand(2, 20, generator=generator) * (torch.rand(2, 20, generator=generator) < 0.8)
    return logits, labels, positive, weight


def reference(scene: tuple[list[Tensor], Tensor, Tensor, Tensor], alpha: float, gamma: float) -> Tensor:
    logits, labels, positive, weight = scene
    flat = torch.cat([level.flatten(1, 2) for level in logits], dim=1)
    target = functional.one_hot(labels, CLASSES).float() * positive[..., None]
    return (sigmoid_focal_loss(flat, target, alpha, gamma) * weight[..., None]).sum()


@pytest.mark.parametrize("chunk", [7, 1 << 16])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.4, 1.5), (0.5, 0.0)])
def test_value_and_gradient_equal_torchvision(
    alpha: float, gamma: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CPU_CHUNK", chunk)
    ours, theirs = scene(), scene()
    for level in (*ours[0], *theirs[0]):
        level.requires_grad_()
    value, expected = focal_loss(*ours, alpha=alpha, gamma=gamma), reference(theirs, alpha, gamma)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    (2 * value).backward()
    (2 * expected).backward()
    for a, b in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_any_memory_layout_gives_the_same() -> None:
    logits, *targets = scene()
    other = [level.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1) for level in logits]
    torch.testing.assert_close(focal_loss(other, *targets), focal_loss(logits, *targets))


def test_extreme_logits_stay_finite() -> None:
    logits = [torch.full((2, 10, 2, CLASSES), value, requires_grad=True) for value in (-200.0, 200.0)]
    _, labels, positive, weight = scene()
    doubled = [torch.cat([t, t], dim=1) for t in (labels, positive, weight)]
    value = focal_loss(logits, *doubled)
    value.backward()
    assert value.isfinite()
    assert all(level.grad is not None and level.grad.isfinite().all() for level in logits)


def test_giou_known_values() -> None:
    # pytorch/vision test/test_ops.py
    one = torch.tensor([[-1.0, -1, 1, 1], [-1, -1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]])
    two = torch.tensor([[-1.0, -1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 2], [1, 1, 2, 2]])
    torch.testing.assert_close(giou_loss(one, two), torch.tensor([0.0, 0.75, 1.0, 1.5]))


def test_giou_gradient_equals_torchvision() -> None:
    corner = torch.rand(40, 2, generator=torch.Generator().manual_seed(1)) * 10
    boxes = torch.cat([corner, corner + 1 + corner.flip(-1)], dim=-1)
    ours, theirs = boxes.clone().requires_grad_(), boxes.clone().requires_grad_()
    giou_loss(ours, boxes.flip(0)).sum().backward()
    generalized_box_iou_loss(theirs, boxes.flip(0), reduction="sum").backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
