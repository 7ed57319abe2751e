"""The tables of a report. Their CSV files have AP in points, too, with all digits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

from detfuse.ablation.plan.start import shown
from detfuse.ablation.records import Plan, Run
from detfuse.ablation.report.blocks import Column, Table
from detfuse.ablation.report.evidence import ArmEvidence
from detfuse.ablation.report.headline import title_of
from detfuse.ablation.report.wording import NARROW, in_points, interval, si, spread
from detfuse.evaluation.errors import ERROR_TYPES
from detfuse.statistics.records import Comparison, Score
from detfuse.statistics.resolution import TOLD, measured, resolvable, seeds_for
from detfuse.statistics.verdict import POWER
from detfuse.visualize.pareto import Point, front
from detfuse.words import listed, points, typeset

ENOUGH = 10
"""Seeds for a correlation of the scores: of three it is anything, whatever the truth."""


def _points_column(header: str) -> Column:
    """Its values are in points already, as in the CSV file."""
    return Column(header, lambda value: "n/a" if value is None else typeset(value))


def scores_table(plan: Plan, scores: Sequence[Score], metrics: Sequence[str]) -> Table:
    """Mean and standard deviation of every arm in every metric; one that no arm has defined is left out."""
    by_key = {(score.arm, score.metric): score for score in scores if score.mean is not None}
    defined = {metric for _, metric in by_key}
    shown = [metric for metric in metrics if metric in defined]
    columns = (Column("arm", numeric=False), *(Column(title_of(metric), spread) for metric in shown))
    rows = tuple((arm.name, *(by_key.get((arm.name, metric)) for metric in shown)) for arm in plan.arms)
    caption = "Points: mean ± standard deviation over the seeds."
    if undefined := [title_of(metric) for metric in metrics if metric not in defined]:
        caption += f" Without an object to find: {listed(undefined)}."
    return Table("scores-page", columns, rows, caption)


def scores_file(scores: Sequence[Score]) -> Table:
    """Every score, one per line."""
    seeds = sorted({seed for score in scores for seed in score.per_seed})
    header = ("mean", "standard deviation", *(f"seed {seed}" for seed in seeds))
    columns = (Column("arm"), Column("metric"), *(Column(f"{name} (points)") for name in header))
    rows = tuple(
        (s.arm, s.metric, *map(in_points, (s.mean, s.deviation, *(s.per_seed.get(seed) for seed in seeds))))
        for s in scores
    )
    return Table("scores", columns, rows)


def seeds_table(plan: Plan, runs: Sequence[Run], scores: Sequence[Score], metric: str) -> Table:
    """The main metric of every run; a run that is missing shows its state."""
    by_run = {(run.arm, run.seed): run for run in runs}
    by_arm = {score.arm: score for score in scores if score.metric == metric}

    def cell(arm: str, seed: int) -> str:
        run = by_run.get((arm, seed))
        if run is None or run.state != "finished":
            return "not needed" if run is None else run.state
        return points(by_arm[arm].per_seed.get(seed) if arm in by_arm else None)

    columns = (Column("arm", numeric=False), *(Column(f"seed {seed}") for seed in plan.seeds))
    rows = tuple((arm.name, *(cell(arm.name, seed) for seed in plan.seeds)) for arm in plan.arms)
    return Table("seeds-page", columns, rows, f"{title_of(metric)} of every run in points.")


def runs_file(runs: Sequence[Run]) -> Table:
    """Every run with its state."""
    columns = (Column("arm"), Column("seed"), Column("state"), Column("reason"), Column("seconds"))
    rows = tuple((run.arm, run.seed, run.state, run.reason, run.seconds) for run in runs)
    return Table("runs", columns, rows)


def differences_file(comparisons: Sequence[Comparison]) -> Table:
    """Every difference with all that belongs to it."""
    names = ("difference", "low", "high", "se over seeds", "se over images")
    columns = (
        *map(Column, ("arm", "baseline", "metric")),
        *(Column(f"{name} (points)") for name in names),
        *map(Column, ("p", "p (all arms)", "p equivalent", "p equivalent (all arms)", "pairs", "kind", "method")),
    )
    rows = []
    for comparison in comparisons:
        for i, d in enumerate(comparison.differences):
            values = (in_points(value) for value in (d.estimate, d.low, d.high, d.se_seeds, d.se_images))
            kind = "exploratory" if i else comparison.verdict.kind
            pairs = len(d.per_seed)
            p = (d.p, d.p_corrected, d.p_equivalent, d.p_equivalent_corrected)
            rows.append((comparison.arm, comparison.baseline, d.metric, *values, *p, pairs, kind, d.method))
    return Table("differences", columns, tuple(rows))


def resolution_table(comparisons: Sequence[Comparison]) -> Table:
    """What the runs' own noise lets an experiment find; no rows where it could not be measured."""
    found = _points_column("smallest difference found (points)")
    seeds = (Column(f"seeds to find {100 * size:.2g}") for size in TOLD)
    rows = []
    for comparison in comparisons:
        main = comparison.differences[0] if comparison.differences else None
        noise = measured(main) if main is not None else None
        if main is not None and noise is not None:
            needed = (seeds_for(noise, size) or "out of reach" for size in TOLD)
            pairs = len(main.per_seed)
            rows.append((comparison.arm, pairs, in_points(resolvable(noise, pairs)), *needed))
    caption = (
        f"What such an experiment finds with {100 * POWER:.0f} % probability at the 95 % level, by the noise of these "
        "runs: the smallest true difference that so many pairs find on these images, and the seeds that a difference "
        "of so many points needs. Not corrected for the number of arms; from a few seeds, an order of magnitude."
    )
    return Table("resolution", (Column("arm", numeric=False), Column("pairs"), found, *seeds), tuple(rows), caption)


def pairs_table(pairs: Sequence[Comparison]) -> Table:
    """All arms with one another; no rows if that was not asked for."""
    header = ("arm", "minus", "difference (points)", "verdict")
    rows = tuple((c.arm, c.baseline, interval(c.differences[0]), c.verdict.kind) for c in pairs)
    caption = (
        "All arms with one another, with 95 % intervals that hold for all of these pairs at once: a family of its own, "
        "wider than that of the arms with the baseline."
    )
    return Table("pairs", tuple(Column(name, numeric=False) for name in header), rows, caption)


def noise_table(comparisons: Sequence[Comparison]) -> Table:
    """How much a difference varies between seeds, and what was borrowed from where; no rows with one seed."""
    columns = (
        Column("arm", numeric=False),
        _points_column("own SD (points)"),
        Column("lent SD (points)", lambda value: "nothing" if value is None else typeset(value)),
        Column("lent share of the variance", lambda share: f"{100 * share:.0f}{NARROW}%"),
        _points_column("used SD (points)"),
        Column("degrees of freedom", "{:.1f}".format),
        Column("lent by", numeric=False),
        Column("arm by arm SD (points)", lambda value: "not told" if value is None else f"{value:.2f}"),
        Column("arm by arm share", lambda share: f"{100 * share:.0f}{NARROW}%"),
    )
    rows = tuple(
        (
            *(c.arm, 100 * c.noise.own, in_points(c.noise.lent), c.noise.share),
            *(100 * c.noise.used, c.noise.freedom, ", ".join(c.noise.lenders) or "none"),
            *(in_points(c.noise.apart), c.noise.apart_share),
        )
        for c in comparisons
        if c.noise is not None
    )
    caption = (
        "Noise between seeds: standard deviation of one seed's difference, as the arm's own few seeds show it, as the "
        "arms show it together, as arm and baseline show it one by one, and as the interval uses it. An arm that "
        "learnt nothing lends nothing; where the arms differ by more than chance allows, each keeps its own. Arm by "
        "arm counts the more, the less the scores of one seed have in common."
    )
    return Table("noise", columns, rows, caption)


def pairing_table(plan: Plan, comparisons: Sequence[Comparison]) -> Table:
    """How well the pairs were paired."""
    share = Column("parameters that started equal", lambda v: "n/a" if v is None else f"{100 * v:.1f}{NARROW}%")
    columns = [Column("arm", numeric=False), Column("pairs"), share]
    rows: list[tuple[Any, ...]] = [(c.arm, f"{len(c.seeds)} of {len(plan.seeds)}", c.shared_start) for c in comparisons]
    known = [c.pairing_correlation if len(c.seeds) >= ENOUGH else None for c in comparisons]
    if any(value is not None for value in known):
        columns.append(Column("correlation over seeds", lambda v: "n/a" if v is None else typeset(v, 2, sign=True)))
        rows = [(*row, value) for row, value in zip(rows, known, strict=True)]
    caption = f"Pairs of an arm's and {plan.baseline.name}'s run with the same seed."
    return Table("pairing", tuple(columns), tuple(rows), caption)


def covariates_table(plan: Plan) -> Table:
    """What the choice itself brings along."""
    header = ("arm", "setting", plan.baseline.name, "the arm")
    rows = tuple(
        (arm, setting, before, after)
        for arm, settings in plan.covariates.items()
        for setting, (before, after) in settings.items()
    )
    return Table("covariates", tuple(Column(name, numeric=False) for name in header), rows)


def start_table(plan: Plan) -> Table:
    """The scale at which every arm starts, map by map."""
    names = dict.fromkeys(name for scales in plan.start.values() for name in scales)
    columns = (Column("arm", numeric=False), *(Column(name, _scale) for name in names))
    rows = tuple((arm, *(scales.get(name) for name in names)) for arm, scales in plan.start.items())
    caption = (
        "Scale at the start: standard deviation of the maps that the head reads (P3 has stride 8) and of its outputs, "
        "before the first step, on the first batch of training."
    )
    return Table("start", columns, rows, caption)


def _scale(value: float | None) -> str:
    return "n/a" if value is None else shown(value)


def cost_points(
    evidence: Mapping[str, ArmEvidence],
    scores: Sequence[Score],
    metric: str,
    colors: Mapping[str, str],
    tolerance: float = 0.0,
) -> dict[str, list[Point]]:
    """Kind of cost -> the arms, with AP in points.

    Args:
        evidence: of all arms.
        scores: likewise.
        metric: the main one.
        colors: of the arms.
        tolerance: share by which parameters or FLOPs may differ and count as the same: the budget's, if there is one.
    """
    by_arm = {score.arm: score for score in scores if score.metric == metric}
    panels: dict[str, list[Point]] = {"parameters (M)": [], "FLOPs per image (G)": [], "latency per image (ms)": []}
    parameters, flops, latency = panels.values()
    for arm, one in evidence.items():
        score, cost = by_arm.get(arm), one.cost
        if cost is None or score is None or score.mean is None:
            continue
        value = (100 * score.mean, in_points(score.deviation))
        parameters.append(Point(arm, colors[arm], cost.parameters / 1e6, *value, tolerance=tolerance))
        flops.append(Point(arm, colors[arm], cost.flops / 1e9, *value, tolerance=tolerance))
        if cost.latency_ms is not None:
            low = -math.inf if cost.latency_low is None else cost.latency_low
            high = math.inf if cost.latency_high is None else cost.latency_high
            latency.append(Point(arm, colors[arm], cost.latency_ms, *value, low, high))
    return panels


def costs_table(evidence: Mapping[str, ArmEvidence], panels: Mapping[str, Sequence[Point]]) -> Table:
    """What every arm costs, and in which kinds of cost no other arm is better and cheaper."""
    fronts = {title: {point.name for point in front(arms)} for title, arms in panels.items()}
    columns = (
        Column("arm", numeric=False),
        Column("parameters", lambda v: "n/a" if v is None else si(v)),
        Column("of the neck", lambda v: "n/a" if v is None else si(v)),
        Column("FLOPs", lambda v: "n/a" if v is None else si(v)),
        *(Column(f"latency{part} (ms)", _milliseconds) for part in ("", ", lower quartile", ", upper quartile")),
        Column("on the Pareto front of", numeric=False),
    )
    rows = []
    for arm, one in evidence.items():
        cost = one.cost
        counts = (cost.parameters, cost.neck_parameters, cost.flops) if cost else (None,) * 3
        times = (cost.latency_ms, cost.latency_low, cost.latency_high) if cost else (None,) * 3
        best = ", ".join(title.split(" ")[0] for title, names in fronts.items() if arm in names)
        rows.append((arm, *counts, *times, best or "none"))
    sizes = sorted({one.cost.image_size for one in evidence.values() if one.cost})
    shown = " or ".join(map(_pixels, sizes))
    caption = f"FLOPs: inference up to the candidates on one image of {shown} pixels, the largest that inference sees."
    return Table("costs", columns, tuple(rows), f"{caption} {_timing_note(evidence)}".rstrip() if sizes else "")


def _timing_note(evidence: Mapping[str, ArmEvidence]) -> str:
    """What the latencies were measured on, and why some were not."""
    costs = {arm: one.cost for arm, one in evidence.items() if one.cost is not None}
    timings = [cost.timing for cost in costs.values() if cost.timing is not None]
    parts = []
    if timings:
        sizes = sorted({size for timing in timings for size in timing.image_sizes}, key=prod)
        of_sizes = _pixels(sizes[0]) + (f" to {_pixels(sizes[-1])}" if len(sizes) > 1 else "")
        number, rounds = _either(t.num_images for t in timings), _either(t.rounds for t in timings)
        parts = [
            f"Latency: the last checkpoint of seed {_either(timing.seed for timing in timings)}, from the uint8 image "
            f"on the device up to its detections, one image at a time; mean of {number} validation images (padded: "
            f"{of_sizes} pixels), median and quartiles of {rounds} rounds in which the arms take turns. Device "
            f"{_either(t.device for t in timings)}, threads {_either(t.threads for t in timings)}, precision "
            f"{_either(t.precision for t in timings)}."
        ]
    return " ".join([*parts, *(f"{arm}: {cost.untimed}." for arm, cost in costs.items() if cost.untimed)])


def _milliseconds(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


def _either(values: Iterable[Any]) -> str:
    return " or ".join(map(str, dict.fromkeys(values)))


def errors_table(evidence: Mapping[str, ArmEvidence]) -> Table:
    """AP50 lost to every type of error, and how many there are."""
    columns = (
        Column("arm", numeric=False),
        *(_points_column(f"{name} (points of AP50)") for name in ERROR_TYPES),
        *(Column(f"{name} (errors per seed)") for name in ERROR_TYPES),
    )
    rows = tuple(
        (arm, *(in_points(one.errors[name]) for name in ERROR_TYPES), *(one.error_counts.get(n) for n in ERROR_TYPES))
        for arm, one in evidence.items()
    )
    return Table("errors", columns, rows)
