"""Numbers, names and tables as people read them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from html import escape

# Controls but for tab and line feed, what turns the direction of writing, halves of surrogate pairs, and what XML
# refuses: each moves, hides or breaks what stands around it.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""A text that a terminal only shows, whoever wrote it: control characters as ``\\x1b``."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(name: str) -> str:
    """A name that stays within its line."""
    return printable(name).replace("\n", "\\n").replace("\t", "\\t")


def escaped(text: str) -> str:
    """A text as HTML and SVG show it."""
    return escape(printable(text))


def shortened(text: str, most: int = 1000) -> str:
    """A message whose lines can be read, whatever was quoted in them: the middle of a longer one is left out."""
    return "\n".join(
        line if len(line) <= most else f"{line[: most * 3 // 4]} [...] {line[-most // 4 :]}"
        for line in text.split("\n")
    )


def points(fraction: float | None, decimals: int = 2, *, unknown: str = "n/a") -> str:
    """AP, a fraction, in points of 100: .3914 is ``39.14``."""
    return unknown if fraction is None else f"{100 * fraction:.{decimals}f}"


def signed(fraction: float | None, decimals: int = 2) -> str:
    """A difference of AP in points: ``+1.30``."""
    return "n/a" if fraction is None else f"{100 * fraction:+.{decimals}f}"


def clock(seconds: float) -> str:
    """``2:05`` or ``1:02:05``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    *others, last = map(shown, names or [""])
    return f"{', '.join(others)} and {last}" if others else last


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many there are if these are not all."""
    return ", ".join(map(shown, names[:most])) + (f" ... ({len(names)} in all)" if len(names) > most else "")


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Rows as lines: each column as wide as its widest cell; those in ``left`` are flush left, the others right."""
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = enumerate(zip(row, widths, strict=True))
        return "  ".join(cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in cells).rstrip()

    return [line(row) for row in rows]


def ruled(header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """The same with a header and a rule below it."""
    widths = (max(map(len, column)) for column in zip(header, *rows, strict=True))
    return aligned([header, ["-" * width for width in widths], *rows], left)
