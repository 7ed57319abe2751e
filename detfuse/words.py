"""Numbers, names and tables as people read them."""

from __future__ import annotations

from collections.abc import Collection, Sequence


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
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many there are if these are not all."""
    return ", ".join(names[:most]) + (f" ... ({len(names)} in all)" if len(names) > most else "")


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Rows as lines: each column as wide as its widest cell; those in ``left`` are flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = enumerate(zip(row, widths, strict=True))
        return "  ".join(cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in cells).rstrip()

    return [line(row) for row in rows]


def ruled(header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """The same with a header and a rule below it."""
    widths = (max(map(len, column)) for column in zip(header, *rows, strict=True))
    return aligned([header, ["-" * width for width in widths], *rows], left)
