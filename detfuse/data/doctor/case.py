"""What the checks of a data set are handed, and what they hand back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from detfuse.data.doctor.looking import ImageLooks
from detfuse.data.index import AnnotationIndex
from detfuse.data.layout import Split
from detfuse.data.transforms import Transforms

Severity = Literal["error", "repair", "note"]
"""What training refuses, what it repairs with a warning, and what it takes without a word but people should know."""

SHOWN = 3
"""Records that a finding names."""


class Fit(NamedTuple):
    """Which objects a head's priors fit.

    Attributes:
        names: of the levels: ``P3`` has stride 8.
        rows: (D,) the objects that were tried, by their rows in the index.
        priors: (D, L) int64, how many priors of each level fit each of them.
    """

    names: Sequence[str]
    rows: npt.NDArray[np.int64]
    priors: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """What a check has found in a split.

    Attributes:
        split: where, such as ``train`` or ``train, val``.
        count: how many.
        total: of how many.
        unit: of both: ``images``.
        first: the first of them by name.
        more: figures that belong to it, told behind what the check is about.
    """

    split: str
    count: int
    total: int
    unit: str
    first: Sequence[str] = ()
    more: str = ""


@dataclass(frozen=True)
class Finding:
    """A line of the result: what was found, how grave it is, and what to do. The fields are :class:`Found`'s."""

    severity: Severity
    check: str
    split: str
    count: int
    total: int
    unit: str
    what: str
    first: Sequence[str]
    remedy: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A data set, and what is to be done with it.

    Attributes:
        indexes: of the splits that could be read.
        looks: what a look at every image file has shown, of the same splits.
        decoded: whether the pixels were looked at, too.
        transform: what training does to the images.
        max_detections: that are left of an image, over all classes; None without a limit.
        scored_detections: of an image and class that count, at most.
        fit: tries the objects of an index on the configured head; None where it cannot say.
    """

    indexes: Mapping[Split, AnnotationIndex]
    looks: Mapping[Split, ImageLooks]
    decoded: bool
    transform: Transforms
    max_detections: int | None
    scored_detections: int
    fit: Callable[[AnnotationIndex], Fit | None]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that may be wrong.

    Attributes:
        name: by which it is asked for.
        what: of that which is found: "have no objects".
        remedy: what to do about it.
        find: looks for it.
        severity: how grave it is.
        pixels: whether it needs decoded images.
    """

    name: str
    what: str
    remedy: str
    find: Callable[[Case], Iterable[Found]]
    severity: Severity = "note"
    pixels: bool = False


def objects_at(index: AnnotationIndex, rows: npt.NDArray[np.int64]) -> list[str]:
    """The first of some annotations, by image file and id."""
    images = index.images
    return [f"{index.file_names[images[row]]} annotation {index.annotation_ids[row]}" for row in rows[:SHOWN].tolist()]


def images_at(index: AnnotationIndex, positions: npt.NDArray[np.int64]) -> list[str]:
    """The first of some images, by their files."""
    return [index.file_names[position] for position in positions[:SHOWN].tolist()]


def percent(part: float, whole: float) -> str:
    """``12 %``, with a decimal where it is small or nearly all, so that neither becomes nothing or everything."""
    share = 100 * part / whole if whole else 0.0
    if 99 < share < 100:
        return f"{math.floor(10 * share) / 10:.1f} %"
    return f"{share:.1f} %" if 0 < share < 10 else f"{share:.0f} %"
