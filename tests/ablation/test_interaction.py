"""An order that depends on another factor is told, with its numbers; one that does not is not."""

from __future__ import annotations

from detfuse.ablation.records import Arm, Plan
from detfuse.ablation.report.interaction import order_flips
from detfuse.statistics.records import Score

RATES = (0.001, 0.002)


def plan_of(means: dict[str, tuple[float, float]]) -> tuple[Plan, list[Score]]:
    """neck -> its mean AP at each of the rates."""
    arms, scores = [], []
    for neck, row in means.items():
        for rate, mean in zip(RATES, row, strict=True):
            arms.append(Arm(f"{neck}-{rate}", {"neck": neck, "optimizer.lr": rate}, ()))
            scores.append(Score(arms[-1].name, "mAP", {0: mean}, mean, None))
    return Plan("lr", tuple(arms), (0,), ()), scores


def test_a_flip_is_told_with_both_differences_and_the_best_levels() -> None:
    found = order_flips(*plan_of({"fpn": (0.30, 0.34), "unfused": (0.32, 0.31), "pafpn": (0.20, 0.21)}), "mAP")
    assert found == [
        "The order flips: fpn is 3.0 points above unfused at optimizer.lr=0.002, and 2.0 below it at "
        "optimizer.lr=0.001.",
        "The highest mean is at optimizer.lr=0.002 for fpn; optimizer.lr=0.001 for unfused; optimizer.lr=0.002 for "
        "pafpn: compare each level at its own best, or say at which it was.",
    ]


def test_one_order_everywhere_is_no_flip() -> None:
    assert order_flips(*plan_of({"fpn": (0.30, 0.34), "unfused": (0.29, 0.34)}), "mAP") == []
    assert order_flips(*plan_of({"fpn": (0.30, 0.34), "unfused": (0.32, 0.31)}), "AP50") == []


def test_single_factors_and_missing_arms_have_no_order_to_flip() -> None:
    plan, scores = plan_of({"fpn": (0.30, 0.34), "unfused": (0.32, 0.31)})
    assert order_flips(plan, scores[:3], "mAP") == []
    one = Plan("necks", tuple(Arm(neck, {"neck": neck}, ()) for neck in ("fpn", "pafpn")), (0,), ())
    assert order_flips(one, [Score("fpn", "mAP", {0: 0.3}, 0.3, None)], "mAP") == []
