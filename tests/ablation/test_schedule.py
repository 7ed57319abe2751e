"""What a run is too short for is found in any detector, and told where it would decide between arms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detfuse.ablation.plan.schedule import Concern, Length, concerns_of, schedules_differ, watched
from detfuse.attention.cbam import CBAM
from detfuse.attention.gc import GC
from detfuse.attention.inserts import Insert
from detfuse.attention.non_local import NonLocal
from detfuse.attention.sagan import SAGAN
from detfuse.attention.se import SE

ADAMW = {"_target_": "detfuse.training.optim.adamw", "lr": 0.001}
COSINE = {"_target_": "detfuse.training.optim.cosine", "warmup_steps": 10}
EMA = "detfuse.training.ema.ExponentialMovingAverage"
SHORT = Length(passes=75, steps=75, batch=8)


class Stand(nn.Module):
    """A detector of three parts; what is tried is its neck."""

    def __init__(self, *neck: nn.Module, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone or nn.Conv2d(3, 16, 1)
        self.neck = nn.Sequential(*neck)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.neck(self.backbone(x)))
        return y


class Twice(nn.Module):
    """A norm that every pass sees twice, as a tower shared by two levels does."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x) + self.norm(2 * x)
        return y


class Shares(nn.Module):
    """Mixes two maps by a softmax whose logits start at zero: they shut nothing out."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.logits.softmax(0)
        return shares[0] * x + shares[1] * x.flip(1)


def concerns(detector: Stand, length: Length = SHORT, **config: Any) -> dict[str, list[Concern]]:
    """What a detector's run is too short for, by kind."""
    torch.manual_seed(0)
    detector.train()
    with watched(detector) as seen:
        detector(torch.randn(2, 3, 8, 8)).square().mean().backward()
    with torch.no_grad():
        detector.eval()(torch.randn(2, 3, 8, 8))  # a validation updates nothing
    found = concerns_of({"optimizer": ADAMW, "scheduler": COSINE, **config}, detector, seen, length)
    by_kind: dict[str, list[Concern]] = {}
    for one in found:
        by_kind.setdefault(one.kind, []).append(one)
    return by_kind


def test_a_norm_that_keeps_its_start_is_told_with_what_would_help() -> None:
    slow = [nn.BatchNorm2d(16, momentum=0.01), nn.BatchNorm2d(16, momentum=0.01)]
    (one,) = concerns(Stand(*slow))["norm"]
    assert one.share == pytest.approx(0.99**75)
    assert one.text == "2 norms of the neck keep 47 % of the initial running statistics (momentum 0.01, 75 updates)"
    assert "ablation.equalise=[norm]" in one.remedies
    assert "callbacks=precise_norm" in one.remedies
    assert "459 optimizer steps or more" in one.remedies
    precise = {"precise_norm": {"_target_": "detfuse.training.precise_norm.PreciseNorm"}}
    assert "norm" not in concerns(Stand(*slow), callbacks=precise)
    assert "norm" not in concerns(Stand(nn.BatchNorm2d(16, momentum=0.01)), Length(459, 459, 8))
    (one,) = concerns(Stand(nn.BatchNorm2d(16, momentum=0.01)), Length(458, 229, 16))["norm"]
    assert "230 optimizer steps or more" in one.remedies, "two batches are accumulated per step"
    (one,) = concerns(Stand(backbone=nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16, momentum=0.0))))["norm"]
    assert one.share == 1
    assert one.where == "the backbone"
    assert "equalise" not in one.remedies


def test_only_averages_that_move_are_asked() -> None:
    frozen = nn.BatchNorm2d(16, momentum=0.01)
    frozen.train = lambda mode=True: frozen  # type: ignore[method-assign]
    frozen.training = False
    for norm in (nn.BatchNorm2d(16), nn.BatchNorm2d(16, momentum=None), nn.GroupNorm(4, 16), frozen):
        assert "norm" not in concerns(Stand(norm))


def test_a_norm_that_sees_several_maps_per_pass_moves_faster() -> None:
    (one,) = concerns(Stand(Twice(0.01)))["norm"]
    assert one.share == pytest.approx(0.99**150)


def test_attention_is_named_by_its_site() -> None:
    (one,) = concerns(Stand(Insert(CBAM(16), "lateral", "c3->t3", 3)))["norm"]
    assert one.where == "CBAM at attention.lateral"


def test_averaged_weights_keep_their_start_without_a_warm_up() -> None:
    ema = {"callbacks": {"pictures": None, "ema": {"_target_": EMA, "decay": 0.999, "warmup": 1.0}}}
    (one,) = concerns(Stand(), **ema)["weights"]
    assert one.share == pytest.approx(0.999**74), "the first update copies the weights"
    ema["callbacks"]["ema"]["warmup"] = 10.0  # type: ignore[index]
    assert "weights" not in concerns(Stand(), **ema)


@pytest.mark.parametrize(("steps", "share", "reached"), [(75, None, ""), (18, 11 / 18, "100 %"), (5, 2.5, "40 %")])
def test_a_warm_up_of_more_than_half_the_run_is_told(steps: int, share: float | None, reached: str) -> None:
    config = {"scheduler": {**COSINE, "warmup_factor": 0.0}}
    found = concerns(Stand(), Length(steps, steps, 8), **config).get("warmup", [])
    assert [one.share for one in found] == ([] if share is None else [pytest.approx(share)])
    assert all(one.text.endswith(f"to {reached} of optimizer.lr") for one in found)


@pytest.mark.parametrize(
    ("neck", "leaf", "full"),
    [
        (SAGAN(16), "gamma", 1.0),
        (NonLocal(16), "weight", 1.0),
        (GC(16), "weight", 2**-0.5),  # a kernel of two inputs
        (SE(16, init="identity"), "alpha", 1.0),
    ],
    ids=["sagan", "non_local", "gc", "se"],
)
def test_weights_that_start_at_zero_and_hold_others_back_are_found(neck: nn.Module, leaf: str, full: float) -> None:
    (one,) = concerns(Stand(Insert(neck, "fused", "t3", 3)))["gate"]
    rates = 0.001 * (sum(0.001 + 0.999 * step / 10 for step in range(10)) + 65 / 2)  # half of what follows a warm-up
    assert one.share == pytest.approx(rates / full, rel=0.02)
    start = f"{type(neck).__name__} at attention.fused: {leaf} starts at 0 and can reach at most about 0.038 in 75 "
    assert one.text.startswith(start)
    assert "gate" not in concerns(Stand(Insert(neck, "fused", "t3", 3)), Length(1000, 1000, 8))


def test_weights_that_start_at_zero_and_hold_nothing_back_are_none() -> None:
    assert "gate" not in concerns(Stand(Shares(), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1)))
    sgd = {"optimizer": {"_target_": "detfuse.training.optim.sgd"}}
    assert "gate" not in concerns(Stand(SAGAN(16)), **sgd), "without Adam's division there is no bound"


SLOW = Concern("norm", "the neck", 0.47, "30 norms keep 47 %", "more steps")
GATE = Concern("gate", "SAGAN, gamma", 0.04, "gamma starts at 0")


def test_arms_that_differ_in_it_are_no_comparison() -> None:
    problems, notes, remarks = schedules_differ("fpn", {"fpn": (), "bifpn": (SLOW,), "pafpn": ()}, allowed=False)
    assert problems == [
        "arm bifpn: 30 norms keep 47 %, nothing of the kind in fpn: what is compared would be how far that has come, "
        "and not the arms; more steps, or say allow=[schedule]"
    ]
    assert (notes, remarks) == ({}, [])
    problems, notes, _ = schedules_differ("fpn", {"fpn": (), "bifpn": (SLOW,)}, allowed=True)
    assert problems == []
    assert notes == {"bifpn": ["30 norms keep 47 %, nothing of the kind in fpn"]}


def test_the_baseline_may_be_the_one_and_is_named_once() -> None:
    problems, _, _ = schedules_differ("bifpn", {"bifpn": (SLOW,), "fpn": (), "pafpn": ()}, allowed=False)
    assert [problem.split(":")[0] for problem in problems] == ["arm bifpn"]


def test_what_all_arms_have_alike_is_a_remark() -> None:
    near = Concern("norm", "the neck", 0.465, "30 norms keep 46 %", "more steps")
    problems, notes, remarks = schedules_differ("a", {"a": (SLOW,), "b": (near,)}, allowed=False)
    assert (problems, notes, remarks) == ([], {}, [SLOW.text])
    far = Concern("norm", "the neck", 0.2, "30 norms keep 20 %", "more steps")
    problems, _, remarks = schedules_differ("a", {"a": (SLOW,), "b": (far,)}, allowed=False)
    assert [problem.split(":")[0] for problem in problems] == ["arm a", "arm b"]
    assert ", 47 % in a: " in problems[1]
    assert remarks == []


def test_gates_are_told_and_never_refused() -> None:
    problems, notes, _ = schedules_differ("none", {"none": (), "sagan": (GATE,)}, allowed=False)
    assert problems == []
    assert notes == {"sagan": ["gamma starts at 0, nothing of the kind in none"]}
