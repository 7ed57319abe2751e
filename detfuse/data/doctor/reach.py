"""Whether the objects have the sizes and shapes that the configured detector looks for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from detfuse.data.doctor.boxes import sides_at_training
from detfuse.data.doctor.case import Case, Found, objects_at, percent

_IDLE = 0.002  # of the objects: a level with fewer has next to nothing to learn


def unreached(case: Case) -> Iterator[Found]:
    """Objects that no prior of any level fits."""
    for split, index in list(case.indexes.items())[:1]:  # what is learnt from, where it could be read
        fit = case.fit(index)
        if fit is None or not len(fit.rows):
            continue
        rows = fit.rows[fit.priors.sum(axis=1) == 0]
        by_level = (fit.priors > 0).sum(axis=0).tolist()
        per_level = ", ".join(
            f"{name} {percent(count, len(fit.rows))}" for name, count in zip(fit.names, by_level, strict=True)
        )
        more = f"{percent(len(rows), len(fit.rows))}; the levels fit: {per_level}"
        if len(rows):
            width, height = np.median(sides_at_training(case, index)[rows], axis=0).tolist()
            more += f"; the median of those that fit none is {width:.0f} x {height:.0f} px resized"
        yield Found(split, len(rows), len(fit.rows), "objects tried", objects_at(index, rows), more)


def idle_levels(case: Case) -> Iterator[Found]:
    """Levels of the detector that hardly any object fits."""
    index = case.indexes.get("train")
    fit = None if index is None else case.fit(index)
    if fit is None or not len(fit.rows):
        return
    shares = (fit.priors > 0).mean(axis=0)
    idle = [name for name, share in zip(fit.names, shares.tolist(), strict=True) if share < _IDLE]
    yield Found("train", len(idle), len(fit.names), "levels", idle)
