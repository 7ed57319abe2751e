"""Axes of charts: scales, round ticks, and labels that keep their distance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from detfuse.visualize import draw

WIDTH = 1060.0
"""Of a report's figures, in pixels."""


@dataclass(frozen=True)
class PixelScale:
    """Maps ``low..high`` to the pixels ``start..end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def inside(self, value: float) -> float:
        """The pixel of a value, on the border where it lies outside."""
        return self(min(max(value, self.low), self.high))


def domain(values: Iterable[float], *, margin: float = 0.06, include: Iterable[float] = ()) -> tuple[float, float]:
    """The range of an axis: that of the values with a margin, never empty."""
    found = [*values, *include]
    if not found:
        return 0.0, 1.0
    low, high = min(found), max(found)
    if low == high:  # a single value is in the middle
        half = abs(high) * 0.1 or 0.5
        return low - half, high + half
    span = high - low
    return low - margin * span, high + margin * span


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most about ``most`` round numbers (1, 2 or 5 times a power of ten) from ``low`` to ``high``."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step)))
    return [round(i * step, decimals) for i in range(first, last + 1)]


def number(value: float, *, sign: bool = False) -> str:
    """A tick's label: no trailing zeros, a real minus."""
    text = f"{value:+.10g}" if sign and value else f"{value:.10g}"
    return text.replace("-", "\N{MINUS SIGN}")


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones that are at least ``gap`` apart, from ``low`` to ``high`` if they fit there."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    placed = [0.0] * len(wanted)
    floor = low
    for i in order:
        placed[i] = max(wanted[i], floor)
        floor = placed[i] + gap
    ceiling = max(high, low + gap * (len(wanted) - 1))
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def grid(vertical: PixelScale, start: float, end: float, *, numbers: bool) -> list[str]:
    """Horizontal lines at the ticks of a vertical scale, from ``start`` to ``end``, with or without their numbers."""
    parts = []
    for tick in ticks(vertical.low, vertical.high, max(3, int((vertical.start - vertical.end) / 45))):
        y = vertical(tick)
        parts.append(draw.line(start, y, end, y))
        if numbers:
            written = number(tick)
            parts.append(draw.text(start - 8, y + 4, written, size=11.5, color=draw.MUTED, anchor="end"))
    return parts


def vertical_label(label: str, y: float) -> str:
    """What a vertical axis shows, written upwards at the left edge around ``y``."""
    written = draw.caption(0, 0, label)
    return draw.element("g", written, transform=f"translate(13 {round(y, 1):g}) rotate(-90)")
