"""Losses over padded batches, in float32: masks instead of selections, so that nothing here waits for the device.

All but the focal loss are elementwise over what is predicted, and take a mask ``where``: elsewhere value and gradient
are exactly 0, whatever stands there (boxes of padded rows have no logarithm, and NaN times 0 is NaN). What they are
divided by is the head's affair: :func:`normalizer_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional

Normalizer = Literal["all", "process"]
"""Whose images a sum over a batch is divided by: those of all processes, or of this process only."""

CPU_CHUNK = 1 << 16  # logits per pass: the temporaries then stay in the cache of one core


def normalizer_of(count: Tensor, across: Normalizer, added: int = 0) -> Tensor:
    """What to divide a sum over this process's images by.

    With ``all`` it is the processes' mean count, so that the mean over the processes, which is what DDP takes of their
    gradients, is the sum over all images by the count of all images: the loss of one process that has them all. Every
    process must come here as often as the others. Batches that are accumulated still count one by one.

    Args:
        count: () int64, what this process's images hold of what is counted; or several counts, each by itself.
        across: ``all`` or ``process``.
        added: to the count of all of them, once.

    Returns:
        Of the same shape, without gradient; at least 1 in one process, and that by the number of processes in several.
    """
    processes = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if across == "process" or processes == 1:
        return (count + added).clamp(min=1)
    total = count.clone()
    distributed.all_reduce(total)
    # the least is one in all processes together: were it one in each, few positives would weigh less in many processes
    return (total + added).clamp(min=1) / processes


def focal_loss(
    logits: Sequence[Tensor],
    labels: Tensor,
    positive: Tensor,
    weight: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Weighted sum of the sigmoid focal loss (Lin et al., 2017, https://arxiv.org/abs/1708.02002).

    The target is one class or background, so no one-hot table is built: every logit is taken as background, and the
    one logit of each positive is corrected. In eager mode the gradient is computed in the same pass.

    Args:
        logits: per level (B, P_l, n, K) float32, P_l cells with n priors each, of any strides: a permuted view of the
            raw map is read and differentiated without a copy. A is the sum of the P_l * n.
        labels: (B, A) int64 in 0..K-1, whatever it is where not ``positive``.
        positive: (B, A) bool; the others are background.
        weight: (B, A) float32; 0 teaches nothing.
        alpha: weight of the positives; 1 - alpha is the background's.
        gamma: exponent that damps the easy ones.

    Returns:
        A scalar. Second derivatives are not provided.
    """
    counts = [level.shape[1] * level.shape[2] for level in logits]
    targets = zip(*(torch.split(t, counts, dim=1) for t in (labels, positive, weight)), strict=True)
    one_level = _focal_plain if torch.compiler.is_compiling() else _FocalLoss.apply
    terms = []
    for level, of_level in zip(logits, targets, strict=True):
        label, is_positive, share = (t.reshape(level.shape[:-1])[..., None] for t in of_level)
        terms.append(one_level(level, label, is_positive, share, alpha, gamma))
    return torch.stack(terms).sum()


def _focal_plain(
    logits: Tensor, labels: Tensor, positive: Tensor, weight: Tensor, alpha: float, gamma: float
) -> Tensor:
    """For compilers, which fuse by themselves, and whose shapes chunks would fix: (B, P, n, K) and (B, P, n, 1)."""
    background = (1 - alpha) * torch.sigmoid(logits) ** gamma * functional.softplus(logits) * weight
    correction, _ = _correct_positives(logits, labels, positive, weight, alpha, gamma)
    return background.sum() + correction


def _correct_positives(
    logits: Tensor, labels: Tensor, positive: Tensor, weight: Tensor, alpha: float, gamma: float
) -> tuple[Tensor, Tensor]:
    """What it adds to the sum that the positives are foreground, and the gradient of their logits as such."""
    x = logits.gather(-1, labels)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    as_background = (1 - alpha) * p**gamma * functional.softplus(x)
    miss = functional.softplus(-x)
    as_foreground = alpha * q**gamma * miss
    gradient = -alpha * q**gamma * (gamma * p * miss + q) * weight
    return (torch.where(positive, as_foreground - as_background, 0.0) * weight).sum(), gradient


class _FocalLoss(torch.autograd.Function):
    """Loss and gradient in one pass over chunks of cells."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        positive: Tensor,
        weight: Tensor,
        alpha: float,
        gamma: float,
    ) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if needs_gradient else logits
        batch, cells, priors, classes = logits.shape
        step = max(1, CPU_CHUNK // (batch * priors * classes)) if logits.device.type == "cpu" else max(1, cells)
        total = logits.new_zeros(())
        for start in range(0, cells, step):
            part = slice(start, start + step)
            x = logits[:, part]
            p, softplus = torch.sigmoid(x), functional.softplus(x)
            focus = p.square() if gamma == 2 else p**gamma
            focus *= weight[:, part] * (1 - alpha)
            total += (focus * softplus).sum()
            if needs_gradient:  # d/dx p^g softplus(x) = p^g (g (1 - p) softplus(x) + p)
                softplus *= (1 - p).mul_(gamma)
                torch.mul(focus, softplus.add_(p), out=gradient[:, part])
        correction, foreground = _correct_positives(logits, labels, positive, weight, alpha, gamma)
        if needs_gradient:
            gradient.scatter_(-1, labels, torch.where(positive, foreground, gradient.gather(-1, labels)))
            ctx.save_for_backward(gradient)
        return total + correction

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None, None, None, None


def cross_entropy(logits: Tensor, labels: Tensor, where: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy of classes that exclude each other.

    Args:
        logits: (..., K).
        labels: (...) int64 in 0..K-1 where they count.
        where: (...) bool, what counts; None: all.

    Returns:
        (...) float32.
    """
    (logits,), (labels,) = _counting(where, logits.float()), _counting(where, labels)
    loss = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return _zero_elsewhere(where, loss.reshape(labels.shape))


def binary_cross_entropy(logits: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
    """Sigmoid cross-entropy with targets in 0..1.

    Args:
        logits: (...).
        target: (...) of the same shape.
        where: likewise, bool; None: all.

    Returns:
        (...) float32.
    """
    logits, target = _counting(where, logits.float(), target.float())
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _zero_elsewhere(where, loss)


def l1_loss(predicted: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
    """Sum of the absolute differences of the last axis.

    Args:
        predicted: (..., D).
        target: (..., D).
        where: (...) bool, what counts; None: all.

    Returns:
        (...) float32.
    """
    predicted, target = _counting(where, predicted.float(), target.float())
    return (predicted - target).abs().sum(-1)


def smooth_l1_loss(predicted: Tensor, target: Tensor, beta: float, where: Tensor | None = None) -> Tensor:
    """Sum over the last axis of ``d**2 / (2 beta)`` for differences below ``beta``, else ``|d| - beta / 2``.

    Source: Girshick, Fast R-CNN, 2015, https://arxiv.org/abs/1504.08083 (there ``beta`` is 1).

    Args:
        predicted: (..., D).
        target: (..., D).
        beta: where it turns from quadratic to linear; 0 is :func:`l1_loss`.
        where: (...) bool, what counts; None: all.

    Returns:
        (...) float32.
    """
    predicted, target = _counting(where, predicted.float(), target.float())
    return functional.smooth_l1_loss(predicted, target, beta=beta, reduction="none").sum(-1)


def giou_loss(predicted: Tensor, target: Tensor, where: Tensor | None = None, *, eps: float = 1e-7) -> Tensor:
    """1 - generalised IoU (Rezatofighi et al., 2019, https://arxiv.org/abs/1902.09630).

    torchvision's selects the overlapping pairs by a mask, which waits for the GPU; the values are the same.

    Args:
        predicted: (..., 4) xyxy, of non-negative width and height.
        target: (..., 4) xyxy.
        where: (...) bool, what counts; None: all.
        eps: keeps the quotients of empty boxes finite.

    Returns:
        (...) float32 in 0..2.
    """
    predicted, target = _counting(where, predicted.float(), target.float())
    shared = _area(
        torch.maximum(predicted[..., :2], target[..., :2]), torch.minimum(predicted[..., 2:], target[..., 2:])
    )
    hull = _area(torch.minimum(predicted[..., :2], target[..., :2]), torch.maximum(predicted[..., 2:], target[..., 2:]))
    own = _area(predicted[..., :2], predicted[..., 2:]) + _area(target[..., :2], target[..., 2:])
    union = own - shared
    return _zero_elsewhere(where, 1 - shared / (union + eps) + (hull - union) / (hull + eps))


def _area(low: Tensor, high: Tensor) -> Tensor:
    width, height = (high - low).clamp(min=0).unbind(-1)  # the backward of prod() would wait for the GPU
    return width * height


def _counting(where: Tensor | None, *given: Tensor) -> tuple[Tensor, ...]:
    """What was given, but zeros where it does not count: no gradient then reaches what stood there."""
    if where is None:
        return given
    return tuple(torch.where(where if x.ndim == where.ndim else where[..., None], x, 0) for x in given)


def _zero_elsewhere(where: Tensor | None, loss: Tensor) -> Tensor:
    return loss if where is None else torch.where(where, loss, 0.0)
