"""How numbers are spread: columns side by side, one colour for each group of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detfuse.visualize import draw
from detfuse.visualize.axes import PixelScale, grid

WIDTH, HEIGHT = 500.0, 210.0
_LEFT, _HEAD, _FOOT = 40.0, 26.0, 44.0
_TICK = 84.0  # pixels that a label below a column takes at most


def histogram(bins: Sequence[str], groups: Sequence[tuple[str, str, Sequence[int]]], *, title: str, label: str) -> str:
    """Columns of the share of each bin in its group, in per cent.

    Args:
        bins: their labels, in order.
        groups: name, colour and the number in each bin.
        title: what is shown.
        label: what the bins are.
    """
    shares = [[100 * count / max(1, sum(counts)) for count in counts] for _, _, counts in groups]
    most = max([share for of_group in shares for share in of_group], default=0.0) or 1.0
    scale = PixelScale(0.0, most * 1.05, HEIGHT - _FOOT, _HEAD)
    pitch = (WIDTH - _LEFT) / max(1, len(bins))
    width = 0.84 * pitch / max(1, len(groups))
    parts = [*grid(scale, _LEFT, WIDTH, numbers=True), draw.text(0, 14, title, size=13, bold=True)]
    for place, ((name, color, counts), of_group) in enumerate(zip(groups, shares, strict=True)):
        x = WIDTH - 60.0 * (len(groups) - place)
        parts += [draw.rect(x, 5, 10, 10, color=color), draw.text(x + 14, 14, name, size=12, color=draw.MUTED)]
        for number, (bin_, count, share) in enumerate(zip(bins, counts, of_group, strict=True)):
            top = scale(share)
            column = draw.rect(
                _LEFT + number * pitch + 0.08 * pitch + place * width, top, width, scale(0) - top, color=color
            )
            parts.append(draw.element("g", *draw.titled(f"{name}, {bin_}: {count:,} ({share:.1f} %)"), column))
    wanted = max([draw.width_of(bin_, 11) for bin_ in bins], default=0.0) + 6
    step = max(1, math.ceil(min(wanted, _TICK) / pitch))
    for number in range(0, len(bins), step):
        written = draw.shortened(bins[number], step * pitch - 4, 11)
        parts.append(draw.caption(_LEFT + (number + 0.5) * pitch, HEIGHT - _FOOT + 16, written, size=11))
    parts.append(draw.caption(_LEFT + (WIDTH - _LEFT) / 2, HEIGHT - 6, label))
    return draw.document(WIDTH, HEIGHT, parts, f"{title}, {label}")
