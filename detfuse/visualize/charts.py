"""AP against cost with the Pareto front, and curves over the epochs with their spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from detfuse.visualize import plot
from detfuse.visualize.forest import WIDTH


@dataclass(frozen=True)
class Point:
    """An arm in the plane of cost and AP (in points).

    Attributes:
        name: of the arm.
        color: likewise.
        cost: what it costs.
        value: its AP.
        deviation: of the AP over seeds.
        low: end of the range in which the cost may lie; None: it is exact. Without any idea of it, minus infinity.
        high: the other end, likewise.
        tolerance: a share of the cost by which costs may differ and count as the same.
    """

    name: str
    color: str
    cost: float
    value: float
    deviation: float | None
    low: float | None = None
    high: float | None = None
    tolerance: float = 0.0

    @property
    def ends(self) -> tuple[float, float]:
        """Where the cost may lie."""
        return (self.cost if self.low is None else self.low, self.cost if self.high is None else self.high)

    def is_dearer(self, other: Point) -> bool:
        """Whether it certainly costs more than another."""
        return self.ends[0] > other.ends[1] * (1 + max(self.tolerance, other.tolerance))

    def beats(self, other: Point) -> bool:
        """Whether it is better and not dearer than another, or as good and cheaper."""
        if self.value == other.value:
            return other.is_dearer(self)
        return self.value > other.value and not self.is_dearer(other)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats, cheapest first; none where a cost is not known well enough to order anything."""
    if any(math.isinf(end) for point in points for end in point.ends):
        return []
    best = [point for point in points if not any(other.beats(point) for other in points)]
    return sorted(best, key=lambda point: (point.cost, point.name))


def cost_panels(panels: Sequence[tuple[str, Sequence[Point]]], *, label: str) -> str:
    """One scatter plot per kind of cost, on one vertical scale.

    Args:
        panels: title of the horizontal axis, and the points.
        label: of the vertical axis.
    """
    height, top, bottom, left, gap = 330.0, 20.0, 282.0, 56.0, 44.0
    room = (WIDTH - left - gap * (len(panels) - 1)) / len(panels)
    everything = [point for _, points in panels for point in points]
    ends = [p.value + side * (p.deviation or 0) for p in everything for side in (-1, 1)]
    vertical = plot.Scale(*plot.domain(ends, margin=0.12), bottom, top)
    parts = [_vertical_label(label, (top + bottom) / 2)]
    for column, (title, points) in enumerate(panels):
        start = left + column * (room + gap)
        parts += _grid(vertical, start, start + room, numbers=column == 0)
        parts.append(plot.text(start + room / 2, height - 10, title, size=12, color=plot.MUTED, anchor="middle"))
        if not points:
            parts.append(plot.text(start + room / 2, 150, "not measured", color=plot.MUTED, anchor="middle"))
            continue
        costs = [cost for p in points for cost in (p.cost, *p.ends) if math.isfinite(cost)]
        scale = plot.Scale(*_cost_range(costs), start, start + room)
        for tick in plot.ticks(scale.low, scale.high, 4):
            parts.append(plot.line(scale(tick), top, scale(tick), bottom))
            written = plot.number(tick)
            parts.append(plot.text(scale(tick), bottom + 17, written, size=11.5, color=plot.MUTED, anchor="middle"))
        parts += _points(points, scale, vertical)
    return plot.document(WIDTH, height, parts, f"{label} against cost")


def _cost_range(costs: Sequence[float]) -> tuple[float, float]:
    """At least a tenth of the cost wide, so that costs that were made equal look equal."""
    middle = (min(costs) + max(costs)) / 2
    return plot.domain(costs, margin=0.2, include=(0.96 * middle, 1.04 * middle))


def _points(points: Sequence[Point], scale: plot.Scale, vertical: plot.Scale) -> list[str]:
    best = front(points)
    corners: list[tuple[float, float]] = []
    for point in best:
        if corners:
            corners.append((scale(point.cost), corners[-1][1]))
        corners.append((scale(point.cost), vertical(point.value)))
    parts = []
    if corners:
        corners.append((scale.end, corners[-1][1]))
        parts.append(plot.polyline(corners, color=plot.FAINT, width=1.5, dash="5 4"))
    boxes = [(scale(p.cost) - 8, vertical(p.value) - 8, scale(p.cost) + 8, vertical(p.value) + 8) for p in points]
    for point in points:
        if point.deviation:
            x, ends = scale(point.cost), (point.value - point.deviation, point.value + point.deviation)
            parts.append(plot.line(x, vertical(ends[0]), x, vertical(ends[1]), color=point.color, width=1.5))
        if point.low is not None and point.high is not None and math.isfinite(point.high - point.low):
            y = vertical(point.value)
            parts.append(plot.line(scale(point.low), y, scale(point.high), y, color=point.color, width=1.5))
    marks = []  # above the labels, which may have to cover something
    for point in points:
        x, y = scale(point.cost), vertical(point.value)
        marks.append(plot.dot(x, y, 6, point.color, hollow=point not in best))
        name = plot.shortened(point.name, 0.45 * (scale.end - scale.start), 12)
        place = _free_place(name, x, y, boxes, (scale.start, scale.end, vertical.end, vertical.start))
        boxes.append(place)
        parts.append(plot.text(place[0], place[3] - 3, name, size=12, color=point.color, bold=True, halo=True))
    parts += marks
    return parts


_BoxOf = tuple[float, float, float, float]


def _free_place(name: str, x: float, y: float, taken: Sequence[_BoxOf], limits: _BoxOf) -> _BoxOf:
    """A box for a point's label: beside it where nothing is in the way, else where it covers the least."""
    width, tall = plot.width_of(name, 12), 15.0
    start, end, top, bottom = limits
    places = []
    for rise in (0.0, -15.0, 15.0, -29.0, 29.0):
        for left in (x + 10, x - 10 - width, x - width / 2):
            if left == x - width / 2 and not rise:
                continue
            left = min(max(left, start + 2), end - width - 2)
            above = min(max(y - tall / 2 + rise, top), bottom - tall)
            places.append((left, above, left + width, above + tall))
    return min(places, key=lambda place: sum(_shared(place, other) for other in taken))


def _shared(a: _BoxOf, b: _BoxOf) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@dataclass(frozen=True)
class Series:
    """A quantity over epochs: its mean over seeds, and its lowest and highest seed."""

    name: str
    color: str
    epochs: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Chart:
    """Series in one frame."""

    title: str
    series: tuple[Series, ...]


def curves(charts: Sequence[Chart], *, label: str, columns: int = 1, tall: float = 320.0) -> str:
    """Charts of series over epochs, in columns; all of them share their scales.

    Args:
        charts: from left to right, then down.
        label: of the vertical axis.
        columns: charts side by side.
        tall: height of a chart in pixels.
    """
    size = 13.0 if columns == 1 else 11.0
    names = [series.name for chart in charts for series in chart.series]
    right = min(170.0, max([30.0, *(plot.width_of(name, size) + 20 for name in names)]))
    left, gap = 56.0, 14.0
    cell = (WIDTH - left - gap * (columns - 1)) / columns
    rows = -(-len(charts) // columns)
    height = rows * tall + 22
    every = [series for chart in charts for series in chart.series]
    limits = plot.domain(
        [v for series in every for v in (*series.low, *series.high)], margin=0.05 if columns == 1 else 0.14
    )
    ends = plot.domain([epoch for series in every for epoch in series.epochs], margin=0)
    parts = [_vertical_label(label, height / 2)]
    for i, chart in enumerate(charts):
        start, top = left + i % columns * (cell + gap), i // columns * tall + (26 if chart.title else 10)
        bottom = (i // columns + 1) * tall - 24
        horizontal = plot.Scale(*ends, start, start + cell - right)
        vertical = plot.Scale(*limits, bottom, top)
        parts += _grid(vertical, start, horizontal.end, numbers=i % columns == 0)
        if chart.title:
            parts.append(plot.text(start, top - 10, chart.title, size=12.5, bold=True))
        most = max(2, int((horizontal.end - start) / 60))
        for tick in (tick for tick in plot.ticks(*ends, most) if tick == int(tick)):
            written = plot.number(tick)
            parts.append(plot.text(horizontal(tick), bottom + 16, written, size=11, color=plot.MUTED, anchor="middle"))
        parts += _series(chart.series, horizontal, vertical, size, right - 14)
    parts.append(plot.text(WIDTH / 2, height - 4, "epoch", size=12, color=plot.MUTED, anchor="middle"))
    return plot.document(WIDTH, height, parts, f"{label} over the epochs")


def _series(
    series: Sequence[Series], horizontal: plot.Scale, vertical: plot.Scale, size: float, room: float
) -> list[str]:
    """Bands below lines below names, which stand at the right, apart from one another."""
    parts = []
    for one in series:
        xs = [horizontal(epoch) for epoch in one.epochs]
        upper = [(x, vertical(v)) for x, v in zip(xs, one.high, strict=True)]
        lower = [(x, vertical(v)) for x, v in zip(xs, one.low, strict=True)]
        parts.append(plot.polygon([*upper, *reversed(lower)], color=one.color, opacity=0.14))
    for one in series:
        points = [(horizontal(e), vertical(v)) for e, v in zip(one.epochs, one.mean, strict=True)]
        parts.append(plot.polyline(points, color=one.color, width=2.2 if size > 12 else 1.6))
        parts.append(plot.dot(*points[-1], 3 if size > 12 else 2, one.color))
    ends = [vertical(one.mean[-1]) for one in series]
    for one, end, y in zip(series, ends, plot.spread(ends, size + 3, vertical.end + 4, vertical.start), strict=True):
        x = horizontal(one.epochs[-1])
        parts.append(plot.line(x + 3, end, horizontal.end + 10, y, color=one.color, width=0.7))
        parts.append(
            plot.text(
                horizontal.end + 12,
                y + size / 3,
                plot.shortened(one.name, room, size),
                size=size,
                color=one.color,
                bold=True,
            )
        )
    return parts


def _grid(vertical: plot.Scale, start: float, end: float, *, numbers: bool) -> list[str]:
    parts = []
    for tick in plot.ticks(vertical.low, vertical.high, max(3, int((vertical.start - vertical.end) / 45))):
        y = vertical(tick)
        parts.append(plot.line(start, y, end, y))
        if numbers:
            written = plot.number(tick)
            parts.append(plot.text(start - 8, y + 4, written, size=11.5, color=plot.MUTED, anchor="end"))
    return parts


def _vertical_label(label: str, y: float) -> str:
    written = plot.text(0, 0, label, size=12, color=plot.MUTED, anchor="middle")
    return f'<g transform="translate(13 {plot.px(y)}) rotate(-90)">{written}</g>'
