"""Differences with their intervals, as forest plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from detfuse.visualize import axes, draw

_HEAD, _FOOT = 30.0, 40.0  # of panels, which have titles above; a single plot has none
_TOP = 4.0


@dataclass(frozen=True)
class Mark:
    """An estimate with its interval (both in points; None where undefined), and its seeds one by one."""

    color: str
    estimate: float | None
    low: float | None
    high: float | None
    seeds: tuple[float, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Row:
    """A line of a forest plot: its label, a smaller one below, and one mark or several under each other."""

    label: str
    marks: tuple[Mark, ...]
    color: str = draw.INK
    note: str = ""


def _ends(marks: Sequence[Mark]) -> list[float]:
    """What the axis must show: all estimates and seeds, and the intervals but for the far ends of very long ones.

    An interval of two seeds may be ten times as long as the others and would press these into nothing.
    """
    found = [value for mark in marks for value in (mark.estimate, *mark.seeds) if value is not None]
    halves = [(mark.high - mark.low) / 2 for mark in marks if mark.low is not None and mark.high is not None]
    most = 2 * median(halves) if halves else 0.0
    for mark in marks:
        if mark.low is not None and mark.high is not None:
            middle = (mark.low + mark.high) / 2
            found += [max(mark.low, middle - most), min(mark.high, middle + most)]
    return found


def forest(rows: Sequence[Row], *, label: str, band: float = 0.0, pitch: float = 44.0, text_width: float = 200) -> str:
    """One forest plot with the numbers written beside it.

    Args:
        rows: from top to bottom.
        label: of the axis.
        band: half the width of the shaded band around 0: differences that nobody would care about.
        pitch: height of a mark's line in pixels.
        text_width: room for the marks' texts.
    """
    left = min(240.0, max([90.0, *(draw.width_of(row.label, 14) + 24 for row in rows)]))
    heights = [max(1, len(row.marks)) * pitch + (12 if pitch < 30 else 0) for row in rows]
    height = _TOP + sum(heights) + _FOOT
    marks = [mark for row in rows for mark in row.marks]
    scale = axes.PixelScale(*axes.domain(_ends(marks), include=(0, band, -band)), left, axes.WIDTH - text_width - 20)
    bottom = height - _FOOT
    parts = [_frame(scale, _TOP, bottom, label, band)]
    top = _TOP
    for row, tall in zip(rows, heights, strict=True):
        shift = -7 if row.note else 0
        middle = top + tall / 2
        parts.append(draw.line(0, top, axes.WIDTH, top))
        name = draw.shortened(row.label, left - 16, 14)
        parts.append(draw.text(0, middle + 5 + shift, name, size=14, color=row.color, bold=True))
        if row.note:
            parts.append(draw.text(0, middle + 13, row.note, size=11, color=draw.MUTED))
        first = top + (tall - len(row.marks) * pitch) / 2 + pitch / 2
        for i, mark in enumerate(row.marks):
            parts += _mark(mark, scale, first + i * pitch, large=pitch >= 30)
            size = 14 if pitch >= 30 else 11
            color = draw.INK if pitch >= 30 else mark.color
            parts.append(draw.text(axes.WIDTH, first + i * pitch + 4, mark.text, size=size, anchor="end", color=color))
        top += tall
    parts.append(draw.line(0, bottom, axes.WIDTH, bottom))
    return draw.document(axes.WIDTH, height, parts, f"forest plot: {label}")


def panels(titles: Sequence[str], rows: Sequence[Row], *, label: str, band: float = 0.0) -> str:
    """Small forest plots side by side on one scale.

    Args:
        titles: of the panels.
        rows: with one mark per panel.
        label: of the axis.
        band: as of :func:`forest`.
    """
    pitch, gap = 30.0, 22.0
    left = min(200.0, max([90.0, *(draw.width_of(row.label, 13) + 16 for row in rows)]))
    height = _HEAD + len(rows) * pitch + _FOOT
    room = (axes.WIDTH - left - gap * len(titles)) / len(titles)  # a gap behind the last one, too: for its last number
    limits = axes.domain(_ends([mark for row in rows for mark in row.marks]), include=(0, band, -band))
    parts = []
    for i, row in enumerate(rows):
        y = _HEAD + (i + 0.5) * pitch
        name = draw.shortened(row.label, left - 8, 13)
        parts.append(draw.text(0, y + 4, name, size=13, color=row.color, bold=True))
    for column, title in enumerate(titles):
        start = left + column * (room + gap)
        scale = axes.PixelScale(*limits, start, start + room)
        parts.append(_frame(scale, _HEAD, height - _FOOT, "", band))
        parts.append(draw.text(start + room / 2, 16, title, size=13, anchor="middle", bold=True))
        for i, row in enumerate(rows):
            y = _HEAD + (i + 0.5) * pitch
            if row.marks[column].estimate is None:
                parts.append(draw.text(scale.inside(0) + 6, y + 4, "n/a", size=11, color=draw.MUTED))
            parts += _mark(row.marks[column], scale, y, large=False)
    parts.append(draw.caption(left + (axes.WIDTH - left) / 2, height - 4, label))
    return draw.document(axes.WIDTH, height, parts, f"forest plots: {label}")


def _frame(scale: axes.PixelScale, top: float, bottom: float, label: str, band: float) -> str:
    parts = []
    if band:
        parts.append(draw.rect(scale(-band), top, scale(band) - scale(-band), bottom - top, color="#f3ead2"))
    most = max(2, int((scale.end - scale.start) / 70))
    for tick in axes.ticks(scale.low, scale.high, most):
        zero = tick == 0
        color = draw.MUTED if zero else draw.RULE
        parts.append(draw.line(scale(tick), top, scale(tick), bottom, color=color, width=1.4 if zero else 1))
        written = axes.number(tick, sign=True)
        parts.append(draw.caption(scale(tick), bottom + 16, written, size=11.5))
    middle = (scale.start + scale.end) / 2
    parts.append(draw.caption(middle, bottom + 34, label))
    return "".join(parts)


def _mark(mark: Mark, scale: axes.PixelScale, y: float, *, large: bool) -> list[str]:
    """A bar for the interval, a dot for the estimate, small rings below for the seeds."""
    parts = []
    if mark.low is not None and mark.high is not None:
        thick = 5 if large else 2.5
        ends = (scale.inside(mark.low), scale.inside(mark.high))
        parts.append(draw.line(ends[0], y, ends[1], y, color=mark.color, width=thick))
        parts.append(_cap(scale, mark.low, y, mark.color, large=large))
        parts.append(_cap(scale, mark.high, y, mark.color, large=large))
    if large:
        parts += [draw.dot(scale(value), y + 13, 2.6, mark.color, hollow=True) for value in mark.seeds]
    if mark.estimate is not None:
        x = scale(mark.estimate)
        parts += [draw.dot(x, y, 8.5 if large else 5, "white"), draw.dot(x, y, 7 if large else 3.8, mark.color)]
    return parts


def _cap(scale: axes.PixelScale, end: float, y: float, color: str, *, large: bool) -> str:
    """The end of an interval: a stroke, or an arrow where it goes on beyond the axis."""
    x, size = scale.inside(end), 6.0 if large else 3.0
    if scale.low <= end <= scale.high:
        return draw.line(x, y - size, x, y + size, color=color, width=1.5)
    inward = size + 3 if end < scale.low else -size - 3
    return draw.polygon([(x, y), (x + inward, y - size), (x + inward, y + size)], color=color, opacity=1)
