"""The extent of a segmentation: polygons, and COCO's run lengths, plain or packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class Extent(list[float]):
    """x, y, width, height of what a record has in place of a box."""


def extent_of(segmentation: Any) -> Extent | None:
    """The box around a segmentation; None if there is none, or it is not understood.

    Args:
        segmentation: a polygon ``[x, y, x, y, ...]``, a list of them, or run lengths ``{counts, size}`` down the
            columns of an image of ``size`` (height, width); ``counts`` are a list, or a text as COCO packs them.
    """
    try:
        if isinstance(segmentation, dict):
            return _of_runs(segmentation["counts"], segmentation["size"])
        return _of_polygons(segmentation)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError):  # whatever else it may be, it is no outline
        return None


def _of_polygons(polygons: Sequence[Any]) -> Extent | None:
    flat = polygons if polygons and not isinstance(polygons[0], list) else [x for each in polygons for x in each]
    points = np.array(flat, np.float64).reshape(-1, 2)
    if not len(points) or not np.isfinite(points).all():
        return None
    low, high = points.min(0), points.max(0)
    return Extent([*low.tolist(), *(high - low).tolist()])


def _of_runs(counts: Any, size: Sequence[int]) -> Extent | None:
    height, width = int(size[0]), int(size[1])
    runs = _unpacked(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    ends = np.cumsum(runs)
    if (runs < 0).any() or not len(ends) or ends[-1] != height * width:
        return None
    first, last = ends[0::2][: len(ends) // 2], ends[1::2] - 1
    filled = last >= first
    first, last = first[filled], last[filled]
    if not len(first):
        return None
    within = first // height == last // height  # a run that goes on in the next column reaches both ends of one
    top = np.where(within, first % height, 0).min()
    bottom = np.where(within, last % height, height - 1).max()
    left, right = first[0] // height, last[-1] // height
    return Extent([float(left), float(top), float(right - left + 1), float(bottom - top + 1)])


def _unpacked(text: str) -> npt.NDArray[np.int64]:
    """Run lengths from COCO's text: five bits and a sign of going on per character; from the fourth, differences."""
    runs: list[int] = []
    value, shift = 0, 0
    for code in text.encode("ascii"):
        bits = code - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return np.array(runs, np.int64)
