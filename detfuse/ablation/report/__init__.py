"""The report of an ablation: one HTML file, Markdown with its figures, and every table as CSV."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from detfuse.ablation.records import Plan, Run
from detfuse.ablation.report.evidence import collect
from detfuse.ablation.report.findings import Findings
from detfuse.ablation.report.markdown import FIGURES, markdown
from detfuse.ablation.report.page import page
from detfuse.ablation.report.pictures import ImageOf
from detfuse.ablation.report.sections import all_sections, subtitle
from detfuse.ablation.report.wording import summary_text
from detfuse.annotations import Annotations, Results
from detfuse.evaluation import read_results
from detfuse.files.text import write_text
from detfuse.statistics.records import Comparison, Score

__all__ = ["summary_text", "write_report"]


def write_report(
    folder: Path,
    plan: Plan,
    runs: Sequence[Run],
    scores: Sequence[Score],
    comparisons: Sequence[Comparison],
    ground_truth: Annotations,
    image_of: ImageOf,
    read: Callable[[Path], Results] = read_results,
    *,
    told: Sequence[str] = (),
    pairs: Sequence[Comparison] = (),
    command: str = "",
) -> Path:
    """Write ``folder/report``; what was there is replaced. The same input gives the same bytes.

    Args:
        folder: of the ablation.
        plan: what was planned.
        runs: all of them, finished or not; of the finished ones, the folders are read.
        scores: of all arms and metrics.
        comparisons: of all arms but the baseline.
        ground_truth: of the validation set.
        image_of: image id -> file, for the pictures.
        read: reads a run's predictions; one that remembers them is for who has read them already.
        told: which look this is, and what earlier ones said, in sentences.
        pairs: of all arms with one another; none if that was not asked for.
        command: that repeats all of it; empty if that is not known.

    Returns:
        report.html.

    Raises:
        StorageError: if a file of a run cannot be read.
        ValueError: if predictions do not belong to the ground truth.
    """
    evidence = collect(plan, runs, ground_truth, read)
    found = Findings(plan, runs, scores, comparisons, evidence, ground_truth, image_of, told, pairs, command)
    sections, line = all_sections(found), subtitle(found)
    target = folder / "report"
    shutil.rmtree(target / FIGURES, ignore_errors=True)  # those of an arm that is no more
    for section in sections:
        for table in section.files:
            write_text(target / f"{table.name}.csv", table.csv())
        for figure in section.figures:
            write_text(target / FIGURES / f"{figure.name}.svg", figure.svg)
    write_text(target / "report.md", markdown(plan.name, line, sections))
    write_text(target / "report.html", page(plan.name, "detfuse · ablation", line, sections))
    return target / "report.html"
