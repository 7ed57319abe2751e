"""The answer of a report, and what it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from detfuse.ablation.plan.start import NOTICEABLE
from detfuse.ablation.records import TOLERANCE
from detfuse.ablation.report import tables
from detfuse.ablation.report.blocks import Badge, Block, Bullets, Figure, Link, Section, Text, Verdicts
from detfuse.ablation.report.findings import (
    EXPLORATORY,
    SIZES,
    THRESHOLDS,
    Findings,
    mark,
    of_metric,
    present,
    rows_of,
    sentence,
)
from detfuse.ablation.report.guide import TITLE as GUIDE
from detfuse.ablation.report.headline import headline, title_of
from detfuse.ablation.report.interaction import order_flips
from detfuse.ablation.report.plainly import plainly
from detfuse.ablation.report.wording import interval
from detfuse.statistics.records import Comparison
from detfuse.visualize import axes, forest, pareto


def opening(found: Findings) -> Section:
    """The headline, a badge per arm, and what is missing."""
    badges = []
    against = {comparison.arm: comparison for comparison in found.comparisons}
    means = {score.arm: score.mean for score in found.scores if score.metric == found.metric}
    for arm in found.plan.arms[1:]:
        comparison = against.get(arm.name)
        figure = interval(comparison.differences[0]) if comparison and comparison.differences else "n/a"
        kind = comparison.verdict.kind if comparison else "missing"
        said = plainly(found.plan, comparison, arm.name, means)
        badges.append(Badge(found.colors[arm.name], arm.name, figure, kind, said))
    note = f"Points of {title_of(found.metric)}, arm minus {found.plan.baseline.name}; {found.coverage}"
    note += ", for all arms at once: it decides the verdicts. " if len(found.comparisons) > 1 else ". "
    if len(found.comparisons) > 1 and not found.pairs:
        note += "Arms are compared with the baseline, not with one another (all_pairs=true does)."
    missing = [run for run in found.runs if run.state != "finished"]
    blocks: list[Block] = [
        Verdicts(headline(found.plan, found.scores, found.comparisons), tuple(badges)),
        Text(note, note=True),
        Link(f"{GUIDE}: what the words and the brackets mean", GUIDE),
    ]
    if missing:
        planned = len(found.runs)
        names = ", ".join(f"{run.arm} seed {run.seed} ({run.state})" for run in missing)
        blocks.append(Text(f"{len(missing)} of {planned} runs missing: {names}.", note=True))
    blocks += [Text(line, note=True) for line in found.told]
    blocks += [Text(warning, note=True) for warning in order_flips(found.plan, found.scores, found.metric)]
    return Section("", blocks)


def differences(found: Findings) -> Section:
    """The main metric's differences, and those at one IoU threshold."""
    baseline, metric = found.plan.baseline.name, found.metric
    rows = []
    for comparison in found.comparisons:
        difference, color = of_metric(comparison, metric), found.colors[comparison.arm]
        text = "no pairs" if difference is None else interval(difference)
        note = f"{len(comparison.seeds)} of {len(found.plan.seeds)} pairs" if comparison.dropped else ""
        rows.append(forest.Row(comparison.arm, (mark(difference, color, text),), color, note))
    band = 100 * found.plan.equivalence
    label = f"difference of {title_of(metric)} to {baseline}, points"
    caption = f"{sentence(found.coverage)} Rings: single seeds. "
    unit = "point" if band == 1 else "points"
    caption += f"Shaded: differences of less than {axes.number(band)} {unit}, which the plan calls equivalent."
    blocks: list[Block] = [Figure("differences", forest.forest(rows, label=label, band=band), caption)]
    if thresholds := present(found, THRESHOLDS):
        titles = [title_of(name) for name in thresholds]
        drawing = forest.panels(
            titles, rows_of(found, thresholds), label=f"difference to {baseline}, points", band=band
        )
        blocks.append(Figure("thresholds", drawing, f"The same at one IoU threshold. {EXPLORATORY}"))
    blocks += [Text("The verdicts in exact terms:", note=True), Bullets(_exact(found.comparisons), note=True)]
    files = [tables.differences_file(found.comparisons)]
    of_pairs = tables.pairs_table(found.pairs)
    for table in (of_pairs, tables.noise_table(found.comparisons), tables.resolution_table(found.comparisons)):
        if table.rows:
            blocks.append(table)
            files.append(table)
    return Section("Differences to the baseline", blocks, tuple(files))


def _exact(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """Every verdict as the judge words it, and how its interval was made."""
    methods = [next((d.method for d in c.differences[:1] if d.method), "") for c in comparisons]
    texts = (c.verdict.text or f"{c.arm}: {c.verdict.kind}." for c in comparisons)
    return tuple(f"{text} {sentence(by)}" if by else text for text, by in zip(texts, methods, strict=True))


def scores(found: Findings) -> Section:
    """Means and spreads, every run, and why some are missing."""
    given = {score.metric for score in found.scores}
    metrics = [metric for metric in (found.metric, *THRESHOLDS, *SIZES) if metric in given]
    seeds = tables.seeds_table(found.plan, found.runs, found.scores, found.metric)
    blocks: list[Block] = [tables.scores_table(found.plan, found.scores, metrics), seeds]
    reasons = [f"{run.arm} seed {run.seed}: {run.state}" for run in found.runs if run.state != "finished"]
    why = [run.reason for run in found.runs if run.state != "finished"]
    if reasons:
        items = (f"{state} ({reason})" if reason else state for state, reason in zip(reasons, why, strict=True))
        blocks += [Text("Missing runs; the pair of each is left out of the differences:"), Bullets(tuple(items))]
    return Section("Scores", blocks, (tables.scores_file(found.scores), tables.runs_file(found.runs)))


def control(found: Findings) -> Section:
    """What was held equal, what the choice brought along, and how well the pairs were paired."""
    plan = found.plan
    budget = {
        "free": "Nothing was solved for: the arms cost what they cost.",
        "params": "The neck's inner width was solved so that every arm has the baseline's number of parameters.",
        "flops": "The neck's inner width was solved so that every arm has the baseline's FLOPs.",
    }[plan.budget]
    items = [f"Budget {plan.budget}. {budget}"]
    items += [f"Set equal to the baseline's: {', '.join(plan.equalise)}."] if plan.equalise else []
    items += [f"Differences declared harmless: {', '.join(plan.allow)}."] if plan.allow else []
    items += [f"All arms: {remark}." for remark in plan.remarks]
    items += [f"{arm.name}: {note}" for arm in plan.arms for note in arm.notes]
    blocks: list[Block] = [
        Text(
            "Within a seed, all arms see the same images in the same order with the same augmentation, and modules "
            "they share start from the same weights. Everything that is not listed here was configured alike."
        ),
        Bullets(tuple(items)),
    ]
    covariates = tables.covariates_table(plan)
    if covariates.rows:
        blocks += [Text("What the choice itself brought along, and what therefore is part of the difference:")]
        blocks.append(covariates)
    else:
        scale = f"is the same within {100 * (NOTICEABLE - 1):.0f} %" if plan.start else "was not measured"
        blocks.append(Text(f"The choice brought no other setting along. The scale at the start {scale}."))
    start = [tables.start_table(plan)] if plan.start else []
    pairing = tables.pairing_table(plan, found.comparisons)
    return Section("What was held equal", [*blocks, *start, pairing], tuple(start))


def costs(found: Findings) -> Section:
    """AP against what it costs."""
    tolerance = 0.0 if found.plan.budget == "free" else TOLERANCE
    panels = tables.cost_points(found.evidence, found.scores, found.metric, found.colors, tolerance)
    table = tables.costs_table(found.evidence, panels)
    drawn = {title: points for title, points in panels.items() if points}
    if not drawn:
        return Section("Cost", [Text("No run has measured its cost (cost.json).")])
    label = f"{title_of(found.metric)}, points"
    caption = (
        "Filled: on the Pareto front, no other arm is better at the same or a lower cost; by the means, without "
        "regard to their noise. "
    )
    caption += (
        f"Parameters and FLOPs within {100 * tolerance:g} % are the same, as the budget has it. " if tolerance else ""
    )
    latency = panels["latency per image (ms)"]
    if latency and not pareto.front(latency):
        caption += "Latency was measured without its spread: it orders nothing. "
    elif latency:
        caption += "Latencies whose quartiles (horizontal bars) overlap are the same. "
    caption += "Vertical bars: standard deviation over the seeds."
    drawing = pareto.cost_panels(list(drawn.items()), label=label)
    return Section("Cost", [Figure("cost", drawing, caption), table], (table,))
