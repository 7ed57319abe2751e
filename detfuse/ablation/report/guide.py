"""How a report is read, in short, for whoever has nothing but the report; the whole page is in the documentation."""

from __future__ import annotations

from detfuse.ablation.report.blocks import Bullets, Section, Text
from detfuse.ablation.report.findings import Findings

TITLE = "How to read a verdict"
PAGE, WHY = ".github/docs/verdict.md", ".github/STATISTICS.md"


def guide(found: Findings) -> Section:
    """What the numbers, the brackets and the five words mean."""
    plan = found.plan
    baseline, limit = plan.baseline.name, f"{100 * plan.equivalence:.4g}"
    limits = f"\N{MINUS SIGN}{limit} and +{limit}"
    equivalent = f"equivalent: the brackets lie between {limits}, which the plan calls too little to matter."
    items = (
        f"The number is the arm's AP minus that of {baseline}, the mean over the seeds, in points: AP goes from 0 "
        "(nothing found) to 100. The brackets say where the true difference lies; in 95 of 100 ablations they are "
        "right about all arms at once.",
        "better, worse: the brackets leave out 0. Luck with seeds and images hardly ever does that.",
        *([equivalent] if plan.equivalence else []),
        "undecided: the brackets hold 0. That is no proof of equality: it means not enough was run to tell.",
        "identical, missing: the same detections; no pair of runs to compare.",
        "A verdict is about this recipe and images like these. Whatever else differs between the arms is part of it, "
        "and stands under What was held equal.",
        "All that is called exploratory shows where to look next, and proves nothing.",
    )
    more = f"The whole page, with examples: {PAGE} in the repository of detfuse; why the numbers hold: {WHY} there."
    return Section(TITLE, [Bullets(items), Text(more, note=True)])
