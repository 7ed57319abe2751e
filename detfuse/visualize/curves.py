"""Curves over the epochs, with their spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detfuse.visualize import axes, draw


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
    right = min(170.0, max([30.0, *(draw.width_of(name, size) + 20 for name in names)]))
    left, gap = 56.0, 14.0
    cell = (axes.WIDTH - left - gap * (columns - 1)) / columns
    rows = -(-len(charts) // columns)
    height = rows * tall + 22
    every = [series for chart in charts for series in chart.series]
    limits = axes.domain(
        [v for series in every for v in (*series.low, *series.high)], margin=0.05 if columns == 1 else 0.14
    )
    ends = axes.domain([epoch for series in every for epoch in series.epochs], margin=0)
    parts = [axes.vertical_label(label, height / 2)]
    for i, chart in enumerate(charts):
        start, top = left + i % columns * (cell + gap), i // columns * tall + (26 if chart.title else 10)
        bottom = (i // columns + 1) * tall - 24
        horizontal = axes.PixelScale(*ends, start, start + cell - right)
        vertical = axes.PixelScale(*limits, bottom, top)
        parts += axes.grid(vertical, start, horizontal.end, numbers=i % columns == 0)
        if chart.title:
            parts.append(draw.text(start, top - 10, chart.title, size=12.5, bold=True))
        most = max(2, int((horizontal.end - start) / 60))
        for tick in (tick for tick in axes.ticks(*ends, most) if tick == int(tick)):
            written = axes.number(tick)
            parts.append(draw.caption(horizontal(tick), bottom + 16, written, size=11))
        parts += _series(chart.series, horizontal, vertical, size, right - 14)
    parts.append(draw.caption(axes.WIDTH / 2, height - 4, "epoch"))
    return draw.document(axes.WIDTH, height, parts, f"{label} over the epochs")


def _series(
    series: Sequence[Series], horizontal: axes.PixelScale, vertical: axes.PixelScale, size: float, room: float
) -> list[str]:
    """Bands below lines below names, which stand at the right, apart from one another."""
    parts = []
    for one in series:
        xs = [horizontal(epoch) for epoch in one.epochs]
        upper = [(x, vertical(v)) for x, v in zip(xs, one.high, strict=True)]
        lower = [(x, vertical(v)) for x, v in zip(xs, one.low, strict=True)]
        parts.append(draw.polygon([*upper, *reversed(lower)], color=one.color, opacity=0.1))
    for one in series:
        points = [(horizontal(e), vertical(v)) for e, v in zip(one.epochs, one.mean, strict=True)]
        parts.append(draw.polyline(points, color=one.color, width=2.2 if size > 12 else 1.6))
        parts.append(draw.dot(*points[-1], 3 if size > 12 else 2, one.color))
    ends = [vertical(one.mean[-1]) for one in series]
    for one, end, y in zip(series, ends, axes.apart(ends, size + 3, vertical.end + 4, vertical.start), strict=True):
        x = horizontal(one.epochs[-1])
        parts.append(draw.line(x + 3, end, horizontal.end + 10, y, color=one.color, width=0.7))
        parts.append(
            draw.text(
                horizontal.end + 12,
                y + size / 3,
                draw.shortened(one.name, room, size),
                size=size,
                color=one.color,
                bold=True,
            )
        )
    return parts
