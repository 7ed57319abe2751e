"""The few marks that the report's figures are drawn with: SVG elements as text, and scales."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

INK, MUTED, FAINT, RULE = "#1f2933", "#52606d", "#9aa5b1", "#e4e7eb"
BASELINE = "#6b7280"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7b3294", "#8c510a")
"""Distinct for the colour-blind (after Okabe and Ito 2008, https://jfly.uni-koeln.de/color); the baseline is grey."""

FONT = 'font-family="Inter, Helvetica Neue, Helvetica, Arial, sans-serif"'
_CHARACTER = 0.56  # width of an average character, in font sizes


def color_of(position: int) -> str:
    """Of the n-th arm (from 0); the baseline is the first."""
    return BASELINE if position == 0 else PALETTE[(position - 1) % len(PALETTE)]


@dataclass(frozen=True)
class Scale:
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


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
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


def width_of(content: str, size: float) -> float:
    """About how many pixels a text takes."""
    return _CHARACTER * size * len(content)


def shortened(content: str, room: float, size: float) -> str:
    """A text that fits into ``room`` pixels."""
    most = max(2, int(room / (_CHARACTER * size)))
    return content if len(content) <= most else f"{content[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def document(width: float, height: float, parts: Iterable[str], label: str) -> str:
    """A whole SVG document with a description for those who cannot see it."""
    size = f'viewBox="0 0 {px(width)} {px(height)}" width="{px(width)}" height="{px(height)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(label)}" {FONT}>'
        + "".join(parts)
        + "</svg>"
    )


def text(
    x: float,
    y: float,
    content: str,
    *,
    size: float = 12,
    color: str = INK,
    anchor: str = "start",
    bold: bool = False,
    halo: bool = False,
) -> str:
    """A line of text; ``y`` is its baseline. A halo keeps it readable where lines cross it."""
    weight = ' font-weight="600"' if bold else ""
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    rim = ' stroke="white" stroke-width="4" stroke-linejoin="round" paint-order="stroke"' if halo else ""
    start = f'<text x="{px(x)}" y="{px(y)}" font-size="{px(size)}" fill="{color}"{place}{weight}{rim}>'
    return f"{start}{escape(content)}</text>"


def line(x1: float, y1: float, x2: float, y2: float, *, color: str = RULE, width: float = 1, dash: str = "") -> str:
    """A straight line."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    ends = f'x1="{px(x1)}" y1="{px(y1)}" x2="{px(x2)}" y2="{px(y2)}"'
    return f'<line {ends} stroke="{color}" stroke-width="{px(width)}"{dashes}/>'


def rect(x: float, y: float, width: float, height: float, *, color: str, opacity: float = 1, radius: float = 0) -> str:
    """A filled rectangle."""
    size = f'x="{px(x)}" y="{px(y)}" width="{px(max(width, 0))}" height="{px(height)}"'
    return f'<rect {size} rx="{px(radius)}" fill="{color}" fill-opacity="{px(opacity)}"/>'


def dot(x: float, y: float, radius: float, color: str, *, hollow: bool = False) -> str:
    """A circle, filled or only its rim."""
    fill = f'fill="white" stroke="{color}" stroke-width="1.3"' if hollow else f'fill="{color}"'
    return f'<circle cx="{px(x)}" cy="{px(y)}" r="{px(radius)}" {fill}/>'


def polyline(points: Sequence[tuple[float, float]], *, color: str, width: float = 2, dash: str = "") -> str:
    """Connected points."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    path = " ".join(f"{px(x)},{px(y)}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{px(width)}" '
        f'stroke-linejoin="round"{dashes}/>'
    )


def polygon(points: Sequence[tuple[float, float]], *, color: str, opacity: float) -> str:
    """A filled area."""
    path = " ".join(f"{px(x)},{px(y)}" for x, y in points)
    return f'<polygon points="{path}" fill="{color}" fill-opacity="{px(opacity)}"/>'


def px(value: float) -> str:
    """A coordinate: a tenth of a pixel is enough."""
    return f"{round(value, 1):g}"
