"""How the arms differ beyond the answer: over the epochs, by size and class, in their errors and learnt weights."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from detfuse.ablation.report import tables
from detfuse.ablation.report.blocks import Block, Figure, Section, Text
from detfuse.ablation.report.evidence import Curve
from detfuse.ablation.report.findings import (
    EXPLORATORY,
    SIZES,
    Findings,
    mark,
    of_metric,
    present,
    rows_of,
    sentence,
)
from detfuse.ablation.report.headline import title_of
from detfuse.ablation.report.wording import in_points, interval
from detfuse.evaluation.errors import ERROR_TYPES
from detfuse.visualize import bars, curves, draw, forest

_MAX_CLASSES = 12
_AREAS = {"APs": "small below 32²", "APm": "medium from 32² to 96²", "APl": "large above 96²"}


def series_of(name: str, color: str, runs: Sequence[Sequence[tuple[float, float]]]) -> curves.Series | None:
    """Mean, lowest and highest of several curves after each epoch that all of them have; 1 is the first."""
    by_epoch = [dict(curve) for curve in runs if curve]
    epochs = sorted(set.intersection(*(set(one) for one in by_epoch))) if by_epoch else []
    if not epochs:
        return None
    values = [[one[epoch] for one in by_epoch] for epoch in epochs]
    low, high = tuple(map(min, values)), tuple(map(max, values))
    return curves.Series(name, color, tuple(epoch + 1 for epoch in epochs), tuple(map(fmean, values)), low, high)


def learning_curves(found: Findings) -> Section:
    """Validation AP over the epochs."""
    series = []
    for arm, one in found.evidence.items():
        runs = [_percent(metrics.get(f"val/{found.metric}", [])) for metrics in one.metrics.values()]
        series.append(series_of(arm, found.colors[arm], runs))
    drawn = tuple(one for one in series if one is not None)
    if not drawn:
        return Section("Learning curves", [Text("No run has logged a validation (metrics.csv).")])
    if max(len(one.epochs) for one in drawn) < 2:
        epoch = f"epoch {drawn[0].epochs[0]:g}"
        return Section("Learning curves", [Text(f"There was one validation, after {epoch}: the scores above.")])
    drawing = curves.curves([curves.Chart("", drawn)], label=f"validation {title_of(found.metric)}, points")
    caption = "Line: mean over the seeds; band: from the lowest to the highest seed."
    caption += " Arms that share a training have its curve alone." if found.plan.shares else ""
    return Section("Learning curves", [Figure("curves", drawing, caption)])


def _percent(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(epoch, 100 * value) for epoch, value in curve if value >= 0]  # -1 is undefined


def details(found: Findings) -> Section:
    """Differences by object size and by class."""
    baseline, band = found.plan.baseline.name, 100 * found.plan.equivalence
    blocks: list[Block] = [Text(f"{EXPLORATORY} {sentence(found.coverage)}", note=True)]
    if sizes := present(found, SIZES):
        label = f"difference to {baseline}, points"
        drawing = forest.panels([title_of(name) for name in sizes], rows_of(found, sizes), label=label, band=band)
        caption = f"Of area in pixels: {', '.join(_AREAS[name] for name in sizes)}."
        blocks.append(Figure("sizes", drawing, caption))
    of_classes = (d.metric for c in found.comparisons for d in c.differences if d.metric.startswith("mAP/"))
    names = present(found, list(dict.fromkeys(of_classes)))
    change = {
        name: max(abs(d.estimate or 0) for c in found.comparisons if (d := of_metric(c, name)) is not None)
        for name in names
    }
    shown = sorted(names, key=lambda name: -change[name])[:_MAX_CLASSES]
    if len(names) > 1:  # of one class alone it is the answer again
        rows = [forest.Row(title_of(name), tuple(_class_marks(found, name))) for name in shown]
        label = f"difference of {title_of(found.metric)} to {baseline} within a class, points"
        number = f"The {len(shown)} most changed of {len(names)} classes" if len(shown) < len(names) else "All classes"
        caption = f"{number}, most changed first; the numbers of all are in differences.csv."
        drawing = forest.forest(rows, label=label, pitch=18, text_width=230)
        blocks.append(Figure("classes", drawing, caption))
    return Section("By object size and class", blocks)


def _class_marks(found: Findings, metric: str) -> list[forest.Mark]:
    marks = []
    for comparison in found.comparisons:
        difference = of_metric(comparison, metric)
        text = "n/a" if difference is None else interval(difference)
        marks.append(mark(difference, found.colors[comparison.arm], f"{comparison.arm}  {text}"))
    return marks


def errors(found: Findings) -> Section:
    """What every type of error costs every arm."""
    rows = [
        (arm, found.colors[arm], [in_points(one.errors[name]) for name in ERROR_TYPES])
        for arm, one in found.evidence.items()
    ]
    table = tables.errors_table(found.evidence)
    if not any(one.error_counts for one in found.evidence.values()):
        why = "Not available: no arm has predictions, or hotcoco is not installed."
        return Section("What goes wrong", [Text(why)], (table,))
    caption = (
        "Points of AP50 that an arm would gain if all its errors of one type were put right (TIDE, arXiv 2008.08115), "
        "mean over the seeds. The types do not add up: putting one error right may hide another."
    )
    drawing = bars.bars(ERROR_TYPES, rows, label="points of AP50 lost")
    return Section("What goes wrong", [Figure("errors", drawing, caption)], (table,))


def weights(found: Findings) -> Section:
    """Learnt scalars of fusion over the epochs; nothing where operators have none, as they add, join or gate."""
    blocks: list[Block] = []
    for arm, one in found.evidence.items():
        drawn = _weight_charts(list(one.weights.values()))
        if drawn:
            drawing = curves.curves(drawn, label="learnt weight", columns=min(4, len(drawn)), tall=170)
            caption = (
                f"{arm}: each chart is a node, each line what it takes of an input. Mean and range over the seeds."
            )
            blocks.append(Figure(f"weights-{arm}", drawing, caption))
    return Section("What fusion learnt", blocks)


def _weight_charts(runs: Sequence[Curve]) -> list[curves.Chart]:
    """A chart per node with a line per input; scalars that belong to no node get one each."""
    names = list(dict.fromkeys(name for run in runs for name in run if name != "step"))
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        node, arrow, source = name.partition("<-")
        groups.setdefault(node, []).append((name, source if arrow else name.rpartition(".")[2]))
    drawn = []
    for node, columns in groups.items():
        series = [
            series_of(label, draw.PALETTE[i % len(draw.PALETTE)], [run.get(name, []) for run in runs])
            for i, (name, label) in enumerate(columns)
        ]
        drawn.append(curves.Chart(node, tuple(one for one in series if one is not None)))
    return [chart for chart in drawn if chart.series]
