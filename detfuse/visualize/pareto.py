"""AP against cost, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from detfuse.visualize import axes, draw


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
    room = (axes.WIDTH - left - gap * (len(panels) - 1)) / len(panels)
    everything = [point for _, points in panels for point in points]
    ends = [p.value + side * (p.deviation or 0) for p in everything for side in (-1, 1)]
    vertical = axes.PixelScale(*axes.domain(ends, margin=0.12), bottom, top)
    parts = [axes.vertical_label(label, (top + bottom) / 2)]
    for column, (title, points) in enumerate(panels):
        start = left + column * (room + gap)
        parts += axes.grid(vertical, start, start + room, numbers=column == 0)
        parts.append(draw.caption(start + room / 2, height - 10, title))
        if not points:
            parts.append(draw.caption(start + room / 2, 150, "not measured"))
            continue
        costs = [cost for p in points for cost in (p.cost, *p.ends) if math.isfinite(cost)]
        scale = axes.PixelScale(*_cost_range(costs), start, start + room)
        for tick in axes.ticks(scale.low, scale.high, 4):
            parts.append(draw.line(scale(tick), top, scale(tick), bottom))
            written = axes.number(tick)
            parts.append(draw.caption(scale(tick), bottom + 17, written, size=11.5))
        parts += _points(points, scale, vertical)
    return draw.document(axes.WIDTH, height, parts, f"{label} against cost")


def _cost_range(costs: Sequence[float]) -> tuple[float, float]:
    """At least a tenth of the cost wide, so that costs that were made equal look equal."""
    middle = (min(costs) + max(costs)) / 2
    return axes.domain(costs, margin=0.2, include=(0.96 * middle, 1.04 * middle))


def _points(points: Sequence[Point], scale: axes.PixelScale, vertical: axes.PixelScale) -> list[str]:
    best = front(points)
    corners: list[tuple[float, float]] = []
    for point in best:
        if corners:
            corners.append((scale(point.cost), corners[-1][1]))
        corners.append((scale(point.cost), vertical(point.value)))
    parts = []
    if corners:
        corners.append((scale.end, corners[-1][1]))
        parts.append(draw.polyline(corners, color=draw.FAINT, width=1.5, dash="5 4"))
    boxes = [(scale(p.cost) - 8, vertical(p.value) - 8, scale(p.cost) + 8, vertical(p.value) + 8) for p in points]
    for point in points:
        if point.deviation:
            x, ends = scale(point.cost), (point.value - point.deviation, point.value + point.deviation)
            parts.append(draw.line(x, vertical(ends[0]), x, vertical(ends[1]), color=point.color, width=1.5))
        if point.low is not None and point.high is not None and math.isfinite(point.high - point.low):
            y = vertical(point.value)
            parts.append(draw.line(scale(point.low), y, scale(point.high), y, color=point.color, width=1.5))
    dots = []  # above the labels, which may have to cover something
    for point in points:
        x, y = scale(point.cost), vertical(point.value)
        dots.append(draw.dot(x, y, 6, point.color, hollow=point not in best))
        name = draw.shortened(point.name, 0.45 * (scale.end - scale.start), 12)
        place = _free_place(name, x, y, boxes, (scale.start, scale.end, vertical.end, vertical.start))
        boxes.append(place)
        parts.append(draw.text(place[0], place[3] - 3, name, size=12, color=point.color, bold=True, halo=True))
    return [*parts, *dots]


_BoxOf = tuple[float, float, float, float]


def _free_place(name: str, x: float, y: float, taken: Sequence[_BoxOf], limits: _BoxOf) -> _BoxOf:
    """A box for a point's label: beside it where nothing is in the way, else where it covers the least."""
    width, tall = draw.width_of(name, 12), 15.0
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
