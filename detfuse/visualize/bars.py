"""Numbers as bars, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from detfuse.visualize import axes, draw

_HEAD, _FOOT = 30.0, 26.0


def bars(columns: Sequence[str], rows: Sequence[tuple[str, str, Sequence[float | None]]], *, label: str) -> str:
    """A bar per row and column on one scale, with its number.

    Args:
        columns: titles.
        rows: label, colour and one value (in points, None where undefined) per column.
        label: what a bar's length says.
    """
    pitch, gap, number = 26.0, 20.0, 38.0
    left = min(200.0, max([90.0, *(draw.width_of(name, 13) + 16 for name, _, _ in rows)]))
    height = _HEAD + len(rows) * pitch + _FOOT
    room = (axes.WIDTH - left - gap * (len(columns) - 1)) / len(columns)
    most = max([value for _, _, values in rows for value in values if value is not None], default=0) or 1
    parts = []
    for i, (name, color, values) in enumerate(rows):
        y = _HEAD + i * pitch
        parts.append(draw.text(0, y + 17, draw.shortened(name, left - 8, 13), size=13, color=color, bold=True))
        for column, value in enumerate(values):
            start = left + column * (room + gap)
            length = max(value or 0, 0) / most * (room - number)
            parts.append(draw.rect(start, y + 5, length, pitch - 10, color=color, opacity=0.8, radius=1.5))
            written = "n/a" if value is None else f"{value:.1f}"
            parts.append(draw.text(start + length + 5, y + 17, written, size=12, color=draw.MUTED))
    for column, title in enumerate(columns):
        start = left + column * (room + gap)
        parts.append(draw.line(start, _HEAD, start, height - _FOOT, color=draw.FAINT))
        parts.append(draw.text(start, 16, title, size=13, bold=True))
    parts.append(draw.caption(left + (axes.WIDTH - left) / 2, height - 4, label))
    return draw.document(axes.WIDTH, height, parts, label)
