"""Optimizers with parameter groups, and learning-rate schedules that are stepped once per optimizer step.

The learning rate of an optimizer is the one at a *reference batch*; it grows linearly with the number of images per
optimizer step (Goyal et al., "Accurate, Large Minibatch SGD", 2017, https://arxiv.org/abs/1706.02677), and the
schedules warm it up as that paper does. The scaled value is ``optimizer.defaults["lr"]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detfuse.attention.inserts import inserts_of
from detfuse.detector import Detector
from detfuse.errors import InputError
from detfuse.ranges import (
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
    checked,
)
from detfuse.structures import Pretrained

Kind = Literal["pretrained", "insert", "new"]
"""What a parameter is: read with a backbone, attention at any site, or drawn at random."""

_FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def scaled_lr(lr: float, total_batch: int, reference_batch: int | None) -> float:
    """Learning rate for ``total_batch`` images per optimizer step.

    Args:
        lr: learning rate at ``reference_batch`` images.
        total_batch: images per optimizer step, over all processes and accumulated batches.
        reference_batch: the batch that ``lr`` was chosen for; None keeps ``lr`` as it is.
    """
    if reference_batch is None:
        return lr
    return lr * total_batch / reference_batch


def parameter_kinds(module: nn.Module) -> dict[str, Kind]:
    """What every parameter of a detector is, by its name, however the detector is wrapped or copied.

    Attention is an insert wherever it stands. Of a backbone that does not say what was read
    (:class:`~detfuse.protocols.Backbone`), all the rest counts as pretrained.
    """
    inserted = {id(p) for insert in inserts_of(module).values() for p in insert.parameters()}
    read: set[int] = set()
    for part in module.modules():
        if told := Pretrained.of(part):
            read |= {id(p) for name, p in part.named_parameters() if name in told.parameters}
        if isinstance(part, Detector) and not hasattr(part.backbone, "pretrained"):
            read |= {id(p) for name, p in part.named_parameters() if name.startswith("backbone.")}

    def kind(parameter: nn.Parameter) -> Kind:
        return "insert" if id(parameter) in inserted else "pretrained" if id(parameter) in read else "new"

    return {name: kind(parameter) for name, parameter in module.named_parameters()}


def parameter_groups(
    module: nn.Module, *, lr: float, weight_decay: float, backbone_multiplier: float
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a detector by what they are and by weight decay.

    Parameters with at most one dimension (biases, norms, fusion weights) do not decay. Pretrained ones learn at
    ``lr * backbone_multiplier``, and a multiplier of 0 leaves them as they are. Inserts and new weights learn at
    ``lr``, in the backbone as elsewhere.

    Returns:
        Up to six groups with the keys ``name params lr weight_decay``; empty ones are left out.

    Raises:
        ValueError: if nothing in the module is trainable.
    """
    kinds = parameter_kinds(module)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        kind, decays = kinds[name], parameter.ndim > 1
        key = kind + ("" if decays else ", no decay")
        rate = lr * backbone_multiplier if kind == "pretrained" else lr
        decay = weight_decay if decays else 0.0
        group = groups.setdefault(key, {"name": key, "params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    if not groups:
        raise InputError("nothing to train: every parameter of the detector is frozen")
    return list(groups.values())


def describe_rates(optimizer: Optimizer) -> str:
    """The peak learning rate in use, scaled, and that of pretrained weights where it differs.

    Such as ``0.01, pretrained 0.001``; or that a multiplier has no effect.
    """
    rate, multiplier = optimizer.defaults["lr"], optimizer.defaults.get("backbone_multiplier", 1.0)
    pretrained = [group["lr"] for group in optimizer.param_groups if group["name"].startswith("pretrained")]
    if not pretrained and multiplier != 1:
        return f"{rate:.6g} (backbone_multiplier={multiplier:g} has no effect: nothing that learns is pretrained)"
    return f"{rate:.6g}" + (f", pretrained {pretrained[0]:.6g}" if pretrained and multiplier != 1 else "")


def _can_fuse(module: nn.Module) -> bool:
    trainable = [p for p in module.parameters() if p.requires_grad]
    return all(p.is_floating_point() and p.device.type in _FUSED_DEVICES for p in trainable)


@checked
def sgd(
    module: nn.Module,
    total_batch: int,
    *,
    lr: PositiveFloat = 0.01,
    momentum: FractionBelowOne = 0.9,
    weight_decay: NonNegativeFloat = 1e-4,
    nesterov: bool = False,
    backbone_multiplier: NonNegativeFloat = 1.0,
    reference_batch: PositiveInt | None = None,
    fused: bool = True,
) -> Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        module: the detector; its groups are those of :func:`parameter_groups`.
        total_batch: images per optimizer step.
        lr: learning rate at ``reference_batch`` images.
        momentum: momentum of the gradients.
        weight_decay: decay of the parameters with two or more dimensions.
        nesterov: Nesterov's form of the momentum.
        backbone_multiplier: learning rate of the backbone's pretrained weights relative to the rest; 0 leaves them as
            they are.
        reference_batch: the batch that ``lr`` is meant for; None: ``lr`` is not scaled.
        fused: one kernel for all parameters, where device and dtype allow it.
    """
    rate = scaled_lr(lr, total_batch, reference_batch)
    groups = parameter_groups(module, lr=rate, weight_decay=weight_decay, backbone_multiplier=backbone_multiplier)
    fuse = True if fused and _can_fuse(module) else None
    optimizer = torch.optim.SGD(
        groups, lr=rate, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fuse
    )
    optimizer.defaults["backbone_multiplier"] = backbone_multiplier  # for describe_rates
    return optimizer


@checked
def adamw(
    module: nn.Module,
    total_batch: int,
    *,
    lr: PositiveFloat = 1e-3,
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.999),
    eps: NonNegativeFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.05,
    backbone_multiplier: NonNegativeFloat = 1.0,
    reference_batch: PositiveInt | None = None,
    fused: bool = True,
) -> Optimizer:
    """AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, https://arxiv.org/abs/1711.05101.

    Args:
        module: the detector; its groups are those of :func:`parameter_groups`.
        total_batch: images per optimizer step.
        lr: learning rate at ``reference_batch`` images.
        betas: decay of the running means of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: decoupled decay of the parameters with two or more dimensions.
        backbone_multiplier: learning rate of the backbone's pretrained weights relative to the rest; 0 leaves them as
            they are.
        reference_batch: the batch that ``lr`` is meant for; None: ``lr`` is not scaled.
        fused: one kernel for all parameters, where device and dtype allow it.
    """
    rate = scaled_lr(lr, total_batch, reference_batch)
    groups = parameter_groups(module, lr=rate, weight_decay=weight_decay, backbone_multiplier=backbone_multiplier)
    fuse = True if fused and _can_fuse(module) else None
    optimizer = torch.optim.AdamW(
        groups, lr=rate, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=fuse
    )
    optimizer.defaults["backbone_multiplier"] = backbone_multiplier  # for describe_rates
    return optimizer


def _schedule(optimizer: Optimizer, decay: Callable[[int], float], warmup_steps: int, warmup_factor: float) -> LambdaLR:
    """Linear warm-up from ``warmup_factor`` at step 0 to 1 at ``warmup_steps``, times ``decay(step)``."""

    def factor(step: int) -> float:
        if step >= warmup_steps:
            return decay(step)
        return (warmup_factor + (1 - warmup_factor) * step / warmup_steps) * decay(step)

    return LambdaLR(optimizer, factor)


@checked
def cosine(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: NonNegativeInt = 100,
    warmup_factor: Fraction = 0.001,
    final_factor: Fraction = 0.0,
) -> LambdaLR:
    """Linear warm-up, then half a cosine: Loshchilov and Hutter, SGDR, 2017, https://arxiv.org/abs/1608.03983.

    With ``t = (step - warmup_steps) / (total_steps - warmup_steps)``, clamped to 0..1, the rate is multiplied by
    ``final_factor + (1 - final_factor) * (1 + cos(pi t)) / 2``: 1 where the warm-up ends, ``final_factor`` after the
    last step. A warm-up as long as the run never decays.

    Args:
        optimizer: whose groups are scheduled.
        total_steps: optimizer steps of the run.
        warmup_steps: optimizer steps of warm-up.
        warmup_factor: factor of the very first step.
        final_factor: factor after the last step.
    """

    def decay(step: int) -> float:
        t = min(max((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0.0), 1.0)
        return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * t)) / 2

    return _schedule(optimizer, decay, warmup_steps, warmup_factor)


@checked
def steps(
    optimizer: Optimizer,
    total_steps: int,
    *,
    milestones: Sequence[OpenFraction] = (2 / 3, 8 / 9),
    gamma: PositiveFloat = 0.1,
    warmup_steps: NonNegativeInt = 100,
    warmup_factor: Fraction = 0.001,
) -> LambdaLR:
    """Linear warm-up, then the rate is multiplied by ``gamma`` at each milestone.

    Args:
        optimizer: whose groups are scheduled.
        total_steps: optimizer steps of the run.
        milestones: fractions of ``total_steps``, ascending, in 0..1.
        gamma: factor at each milestone.
        warmup_steps: optimizer steps of warm-up.
        warmup_factor: factor of the very first step.
    """
    if list(milestones) != sorted(milestones):
        raise InputError(f"scheduler.milestones must be ascending fractions of the run, got {list(milestones)}")

    def decay(step: int) -> float:
        return float(gamma ** sum(step >= m * total_steps for m in milestones))

    return _schedule(optimizer, decay, warmup_steps, warmup_factor)
