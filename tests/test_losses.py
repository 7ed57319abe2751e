"""Every loss against torch's or torchvision's, and what masks promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from detfuse import losses
from detfuse.losses import binary_cross_entropy, cross_entropy, focal_loss, giou_loss, l1_loss, smooth_l1_loss

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


Loss = Callable[..., Tensor]


def some_boxes(seed: int) -> Tensor:
    corner = torch.rand(2, 20, 2, generator=torch.Generator().manual_seed(seed)) * 10
    return torch.cat([corner, corner + 1 + corner.flip(-1)], dim=-1)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))) * 2


def entropy_of(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")


ELEMENTWISE: dict[str, tuple[Loss, Loss, Tensor, Tensor]] = {
    "cross-entropy": (cross_entropy, entropy_of, numbers(2, 20, 5), torch.arange(40).reshape(2, 20) % 5),
    "binary cross-entropy": (
        binary_cross_entropy,
        partial(functional.binary_cross_entropy_with_logits, reduction="none"),
        numbers(2, 20),
        numbers(20, 2).t().sigmoid(),
    ),
    "l1": (
        l1_loss,
        lambda a, b: functional.l1_loss(a, b, reduction="none").sum(-1),
        numbers(2, 20, 4),
        numbers(1, 2, 20, 4)[0],
    ),
    "smooth l1": (
        partial(smooth_l1_loss, beta=0.7),
        lambda a, b: functional.smooth_l1_loss(a, b, beta=0.7, reduction="none").sum(-1),
        numbers(2, 20, 4),
        numbers(1, 2, 20, 4)[0],
    ),
    "giou": (giou_loss, generalized_box_iou_loss, some_boxes(1), some_boxes(2)),
}
"""Name -> ours, the reference, what is predicted and the target of 2 x 20 priors."""
EVERY = pytest.mark.parametrize("name", ELEMENTWISE)


@EVERY
def test_values_and_gradients_are_those_of_torch(name: str) -> None:
    ours, theirs, predicted, target = ELEMENTWISE[name]
    a, b = predicted.clone().requires_grad_(), predicted.clone().requires_grad_()
    found, expected = ours(a, target), theirs(b, target)
    assert found.shape == (2, 20)
    torch.testing.assert_close(found, expected)
    weight = torch.rand(2, 20)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


@EVERY
@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf])
def test_what_does_not_count_teaches_nothing_whatever_stands_there(name: str, rubbish: float) -> None:
    ours, _, predicted, target = ELEMENTWISE[name]
    where = torch.rand(2, 20, generator=torch.Generator().manual_seed(3)) < 0.5
    expected, gradient = torch.zeros(2, 20), torch.zeros_like(predicted)
    alone = predicted[where].requires_grad_()
    expected[where] = ours(alone, target[where]).detach()
    (gradient[where],) = torch.autograd.grad(ours(alone, target[where]).sum(), alone)
    dirty, other = predicted.clone(), target.clone()
    dirty[~where] = rubbish
    other[~where] = rubbish if target.is_floating_point() else 999
    dirty.requires_grad_()
    found = ours(dirty, other, where=where)
    torch.testing.assert_close(found, expected)
    assert not found[~where].any()
    found.sum().backward()
    torch.testing.assert_close(dirty.grad, gradient)


@EVERY
def test_the_loss_of_half_precision_is_that_of_its_numbers_in_float32(name: str) -> None:
    ours, _, predicted, target = ELEMENTWISE[name]
    half = predicted.bfloat16()
    found = ours(half, target)
    assert found.dtype == torch.float32
    assert torch.equal(found, ours(half.float(), target))


def test_smooth_l1_without_a_quadratic_part_is_l1() -> None:
    _, _, predicted, target = ELEMENTWISE["l1"]
    assert torch.equal(smooth_l1_loss(predicted, target, 0.0), l1_loss(predicted, target))
