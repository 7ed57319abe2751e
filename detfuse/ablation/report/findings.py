"""What a report is about, and how its differences become marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detfuse.ablation.records import Plan, Run
from detfuse.ablation.report.evidence import ArmEvidence
from detfuse.ablation.report.headline import main_metric
from detfuse.ablation.report.pictures import ImageOf
from detfuse.ablation.report.wording import coverage, in_points
from detfuse.annotations import Annotations
from detfuse.statistics.records import Comparison, Difference, Score
from detfuse.visualize import draw, forest

THRESHOLDS, SIZES = ("AP50", "AP75"), ("APs", "APm", "APl")
EXPLORATORY = "Exploratory: not corrected for the number of comparisons; a lead to follow, not a result."


@dataclass(frozen=True)
class Findings:
    """All that a report is about.

    Attributes:
        plan: of the ablation.
        runs: all of them.
        scores: of all arms and metrics.
        comparisons: of all arms but the baseline, in the plan's order.
        evidence: what the run folders of each arm say.
        ground_truth: of the validation set.
        image_of: image id -> file.
        told: which look this is, and what earlier ones said, in sentences.
        pairs: of all arms with one another.
        command: that repeats all of it; empty if that is not known.
    """

    plan: Plan
    runs: Sequence[Run]
    scores: Sequence[Score]
    comparisons: Sequence[Comparison]
    evidence: Mapping[str, ArmEvidence]
    ground_truth: Annotations
    image_of: ImageOf
    told: Sequence[str] = ()
    pairs: Sequence[Comparison] = ()
    command: str = ""

    @property
    def colors(self) -> dict[str, str]:
        """Arm -> its colour in all figures."""
        return {arm.name: draw.color_of(i) for i, arm in enumerate(self.plan.arms)}

    @property
    def metric(self) -> str:
        """The main one."""
        return main_metric(self.comparisons)

    @property
    def coverage(self) -> str:
        """What the intervals cover."""
        return coverage(self.comparisons, len(self.ground_truth))


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def mark(difference: Difference | None, color: str, text: str = "") -> forest.Mark:
    """A difference as a mark of a forest plot."""
    if difference is None or difference.estimate is None:
        return forest.Mark(color, None, None, None, (), text or "n/a")
    seeds = tuple(100 * value for value in difference.per_seed.values())
    ends = (in_points(difference.low), in_points(difference.high))
    return forest.Mark(color, 100 * difference.estimate, *ends, seeds, text)


def of_metric(comparison: Comparison, metric: str) -> Difference | None:
    """The difference of one metric; None if it was not compared."""
    return next((d for d in comparison.differences if d.metric == metric), None)


def rows_of(found: Findings, metrics: Sequence[str]) -> list[forest.Row]:
    """A row per arm with a mark per metric."""
    return [
        forest.Row(c.arm, tuple(mark(of_metric(c, m), found.colors[c.arm]) for m in metrics), found.colors[c.arm])
        for c in found.comparisons
    ]


def present(found: Findings, metrics: Sequence[str]) -> list[str]:
    """Those of the metrics in which any arm was compared and the difference is defined."""
    differences = {m: [of_metric(c, m) for c in found.comparisons] for m in metrics}
    return [m for m, of_arms in differences.items() if any(d and d.estimate is not None for d in of_arms)]
