"""What a run is too short for: averages that keep their start, a warm-up that fills it, weights that hardly leave zero.

Where two arms differ in such a thing, the schedule decides between them and not what they were made for. An average
(the running statistics of a batch norm, the averaged weights) with momentum m keeps (1 - m)**n of its start after n
updates; what is scored is that mixture.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detfuse.attention.inserts import inserts_of
from detfuse.build import instantiate
from detfuse.training.ema import ExponentialMovingAverage
from detfuse.training.precise_norm import PreciseNorm

Kind = Literal["norm", "weights", "warmup", "gate"]

KEPT = 0.01  # of its start: the mean 0 and variance 1 then move a normalised value by about half a percent
LONGEST_WARM_UP = 0.5  # of the run
OPEN = 0.3  # of the size at which a weight that starts at zero acts in full
ALIKE = 0.01  # shares that differ by no more are the same for two arms

_DECIDES = "what is compared would be how far that has come, and not the arms"


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        passes: training batches that each process sees.
        steps: optimizer steps.
        batch: images per optimizer step.
    """

    passes: int
    steps: int
    batch: int


@dataclass(frozen=True)
class Concern:
    """Something for which a run is too short.

    Attributes:
        kind: of average, or of weights.
        where: the part, or the attention, that it is in.
        share: of its start that an average keeps, of the run that the warm-up takes, or of its full size that a gate
            can reach.
        text: what it is, for people.
        remedies: against it, for people.
    """

    kind: Kind
    where: str
    share: float
    text: str
    remedies: str = ""


@dataclass
class Watched:
    """What a detector shows in its first training steps.

    Attributes:
        passes: through the detector.
        updates: norm with running statistics -> how often it was updated.
        zero: parameters that start at zero and are no biases.
        blocked: parameters whose first gradient is exactly zero.
    """

    passes: int = 0
    updates: dict[str, int] = field(default_factory=dict)
    zero: list[str] = field(default_factory=list)
    blocked: dict[str, bool] = field(default_factory=dict)


@contextmanager
def watched(detector: nn.Module) -> Iterator[Watched]:
    """Look on while a detector takes its first training steps.

    Args:
        detector: as it starts.
    """
    seen = Watched()
    learns = {name: parameter for name, parameter in detector.named_parameters() if parameter.requires_grad}
    seen.zero = [name for name, p in learns.items() if not name.endswith("bias") and not p.detach().any()]

    def count_pass(module: nn.Module, *_: Any) -> None:
        seen.passes += module.training

    def count_update(name: str, module: nn.Module, *_: Any) -> None:
        seen.updates[name] = seen.updates.get(name, 0) + module.training

    def note_gradient(name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        seen.blocked.setdefault(name, not parameter.grad.any())

    hooks = [detector.register_forward_hook(count_pass)]
    for name, module in detector.named_modules():
        if getattr(module, "track_running_stats", False):  # frozen norms have statistics, but track none
            hooks.append(module.register_forward_hook(partial(count_update, name)))
    for name, parameter in learns.items():
        hooks.append(parameter.register_post_accumulate_grad_hook(partial(note_gradient, name)))  # type: ignore[no-untyped-call]  # torch's
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def concerns_of(config: Mapping[str, Any], detector: nn.Module, seen: Watched, length: Length) -> tuple[Concern, ...]:
    """What a run is too short for.

    Args:
        config: plain and resolved.
        detector: the same that was watched.
        seen: how it took its first steps.
        length: of the run.
    """
    callbacks = [instantiate(node)() for node in (config.get("callbacks") or {}).values() if node is not None]
    precise = any(isinstance(callback, PreciseNorm) for callback in callbacks)
    found = [] if precise else [*_norms(detector, seen, length)]
    for callback in callbacks:
        if isinstance(callback, ExponentialMovingAverage):
            found += _averaged_weights(callback.decay_after, length)
    optimizer: Optimizer = instantiate(config["optimizer"])(detector, length.batch)
    rates = _rates(optimizer, instantiate(config["scheduler"])(optimizer, length.steps), length)
    return (*found, *_warm_up(optimizer, rates, length), *_gates(detector, seen, optimizer, rates, length))


def schedules_differ(
    baseline: str, concerns: Mapping[str, Sequence[Concern]], allowed: bool
) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """What of it decides between arms.

    Args:
        baseline: name of the arm that the others are compared with.
        concerns: arm -> what its runs are too short for.
        allowed: such differences were declared harmless.

    Returns:
        Problems, a line each; arm -> notes; and what holds for all arms alike.
    """
    problems: list[str] = []
    notes: dict[str, list[str]] = {}
    for name, found in concerns.items():
        partners = [other for other in concerns if other != name] if name == baseline else [baseline]
        for one in found:
            against = next((other for other in partners if not _is_alike(one, concerns[other])), None)
            if against is None:
                continue
            there = _share_of(one, concerns[against])
            text = f"{one.text}, {'nothing of the kind' if there is None else _percent(there)} in {against}"
            if one.kind == "gate" or allowed:
                notes.setdefault(name, []).append(text)
            else:
                problems.append(f"arm {name}: {text}: {_DECIDES}; {one.remedies}, or say allow=[schedule]")
    alike = [one for one in concerns[baseline] if all(_is_alike(one, theirs) for theirs in concerns.values())]
    return problems, notes, [one.text for one in alike]


def _share_of(one: Concern, others: Sequence[Concern]) -> float | None:
    return next((other.share for other in others if (other.kind, other.where) == (one.kind, one.where)), None)


def _is_alike(one: Concern, others: Sequence[Concern]) -> bool:
    there = _share_of(one, others)
    return there is not None and abs(one.share - there) <= ALIKE


# ---- averages


def _norms(detector: nn.Module, seen: Watched, length: Length) -> Iterator[Concern]:
    """Batch norms, part by part, whose running statistics keep too much of their start."""
    places = _places(detector)
    keeping: dict[str, list[tuple[float, float, int]]] = {}  # part -> share kept, momentum, updates per pass
    for name, updates in seen.updates.items():
        norm: Any = detector.get_submodule(name)
        momentum: float | None = norm.momentum
        if not updates or momentum is None:  # not in training mode; None is the plain average, which keeps nothing
            continue
        per_pass = updates // max(seen.passes, 1)
        kept = (1 - momentum) ** (per_pass * length.passes)
        if kept > KEPT:
            keeping.setdefault(_place(name, places), []).append((kept, momentum, per_pass))
    for where, norms in keeping.items():
        kept, momentum, per_pass = max(norms)  # the one that keeps most
        whose = f"{len(norms)} norms of {where} keep" if len(norms) > 1 else f"a norm of {where} keeps"
        yield Concern(
            "norm",
            where,
            kept,
            f"{whose} {_percent(kept)} of the initial running statistics (momentum {momentum:g}, "
            f"{per_pass * length.passes} updates)",
            f"{'ablation.equalise=[norm], ' if where == 'the neck' else ''}callbacks=precise_norm (statistics computed "
            f"anew before scoring), {_longer(momentum, per_pass, length)}",
        )


def _longer(momentum: float, per_pass: int, length: Length) -> str:
    if not momentum:
        return "a momentum above 0"
    passes = math.log(KEPT) / math.log(1 - momentum) / per_pass
    return f"{math.ceil(passes * length.steps / length.passes):,} optimizer steps or more"


def _averaged_weights(decay_after: Callable[[int], float], length: Length) -> Iterator[Concern]:
    """The first update copies the weights; what is kept of that copy is kept of the random start."""
    kept, updates = 1.0, 1
    while updates < length.steps and kept > KEPT:
        kept *= decay_after(updates)
        updates += 1
    if kept > KEPT:
        yield Concern(
            "weights",
            "weights",
            kept,
            f"the average of the weights keeps {_percent(kept)} of what they were after the first of {length.steps} "
            "steps",
            "a smaller callbacks.ema.decay, callbacks.ema.warmup=10, or more steps",
        )


# ---- learning rates


def _rates(optimizer: Optimizer, schedule: Any, length: Length) -> list[list[float]]:
    """The learning rate of every parameter group at every optimizer step."""
    if isinstance(schedule, LambdaLR):
        known: dict[Any, list[float]] = {}
        for factor in schedule.lr_lambdas:
            if factor not in known:
                known[factor] = [factor(step) for step in range(length.steps)]
        pairs = zip(optimizer.param_groups, schedule.lr_lambdas, strict=True)
        return [[group["initial_lr"] * value for value in known[factor]] for group, factor in pairs]
    rates: list[list[float]] = [[] for _ in optimizer.param_groups]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of a schedule that steps before its optimizer
        for _ in range(length.steps):
            for of_group, group in zip(rates, optimizer.param_groups, strict=True):
                of_group.append(group["lr"])
            schedule.step()
    return rates


def _warm_up(optimizer: Optimizer, rates: Sequence[Sequence[float]], length: Length) -> Iterator[Concern]:
    if not length.steps:
        return
    group, fastest = max(zip(optimizer.param_groups, rates, strict=True), key=lambda pair: max(pair[1]))
    highest = max(fastest)
    peak = fastest.index(highest) + 1
    if peak / length.steps > LONGEST_WARM_UP:
        reached = highest / group["initial_lr"]
        yield Concern(
            "warmup",
            "the learning rate",
            peak / length.steps / max(reached, ALIKE),  # of a warm-up that goes on: about as long as all of it would be
            f"the learning rate rises for {peak} of the run's {length.steps} steps, to {_percent(reached)} of "
            "optimizer.lr",
            "a shorter scheduler.warmup_steps, or more steps",
        )


def _gates(
    detector: nn.Module, seen: Watched, optimizer: Optimizer, rates: Sequence[Sequence[float]], length: Length
) -> Iterator[Concern]:
    """Weights that start at zero and hold back others, so that until they have grown these do nothing.

    Adam moves a weight by about its learning rate per step at most; other optimizers have no such bound.
    """
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        return
    reach = {
        id(parameter): sum(of_group)
        for group, of_group in zip(optimizer.param_groups, rates, strict=True)
        for parameter in group["params"]
    }
    places = _places(detector)
    closed: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for name in seen.zero:
        parameter = detector.get_parameter(name)
        owner = name.rpartition(".")[0]
        around = owner.rpartition(".")[0] or owner
        holds_back = any(blocked and other.startswith(f"{around}.") for other, blocked in seen.blocked.items())
        share = reach.get(id(parameter), math.inf) / _full_size(parameter)
        if holds_back and not seen.blocked.get(name, True) and share < OPEN:
            key = _place(name, places), name.rpartition(".")[2]
            closed.setdefault(key, []).append((share, reach[id(parameter)]))
    for (where, leaf), found in closed.items():
        share, moved = max(found)
        count = f" ({len(found)} of them)" if len(found) > 1 else ""
        yield Concern(
            "gate",
            f"{where}, {leaf}",
            share,
            f"{where}: {leaf}{count} starts at 0 and can reach at most about {moved:.2g} in {length.steps} steps (the "
            f"sum of the learning rates), {_percent(share)} of the size at which it acts in full",
        )


def _full_size(parameter: nn.Parameter) -> float:
    """The size at which a weight acts in full: 1 of a factor; of a kernel what keeps the scale of its inputs."""
    if parameter.ndim < 2:
        return 1.0
    return float(parameter[0].numel() ** -0.5)


# ---- places


def _places(detector: nn.Module) -> dict[str, str]:
    """Dotted name of every insert -> how people call it."""
    return {name: f"{insert.kind} at attention.{insert.site}" for name, insert in inserts_of(detector).items()}


def _place(name: str, inserts: Mapping[str, str]) -> str:
    """The attention that a module or parameter belongs to, or the part of the detector."""
    found = next((label for insert, label in inserts.items() if name.startswith(f"{insert}.")), None)
    return found or f"the {name.split('.')[0]}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"
