"""The obvious forms, pixel by pixel and box by box, in exact fractions where that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from hypothesis import strategies as st

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1; small integers, so that single precision has their areas exactly and ties are ties."""


def boxes(most: int = 8, *, least: int = 0) -> st.SearchStrategy[Box]:
    """Boxes that begin within ``most`` pixels, with sides from ``least``, so that they are empty if that is 0."""
    corner, side = st.integers(0, most - 1), st.integers(least, most)
    return st.builds(lambda x, y, width, height: (x, y, x + width, y + height), corner, corner, side, side)


def area(box: Sequence[int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Pixels that two boxes share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def iou(a: Sequence[int], b: Sequence[int]) -> Fraction:
    union = area(a) + area(b) - shared(a, b)
    return Fraction(shared(a, b), union) if union else Fraction(0)
