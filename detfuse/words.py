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


MINUS = "\N{MINUS SIGN}"


def points(fraction: float | None, *, unknown: str = "n/a") -> str:
    """AP, a fraction, in points of 100 as people read it everywhere: .3914 is ``39.1``."""
    return unknown if fraction is None else typeset(100 * fraction)


def signed(fraction: float | None) -> str:
    """A difference of AP in points: ``+1.3``, with a real minus where it is negative."""
    return "n/a" if fraction is None else typeset(100 * fraction, sign=True)


def with_ends(estimate: float, low: float, high: float) -> tuple[str, str, str]:
    """A difference of AP in points, and both ends of its interval: ``+1.3``, ``+0.4``, ``+2.2``.

    One decimal, as everywhere; more only where rounding would hide on which side of 0 an end lies.
    """
    values = [100 * value for value in (estimate, low, high)]
    decimals = next((d for d in range(1, 4) if all(round(end, d) or not end for end in values[1:])), 4)
    first, second, third = (typeset(value, decimals, sign=True) for value in values)
    return first, second, third


def typeset(value: float, decimals: int = 1, *, sign: bool = False) -> str:
    """A number with a real minus, and without a sign where rounding leaves nothing of it."""
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return (text if text.strip("+-0.") else text.lstrip("+-")).replace("-", MINUS)


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
