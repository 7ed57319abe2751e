"""Detections of one list of classes as those of another, by the names of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from detfuse.errors import InputError
from detfuse.protocols import Combine
from detfuse.structures import Categories, Detections
from detfuse.words import some

ABSENT = -1
"""Position of a class that the other list does not have."""


def positions(names: tuple[str, ...], among: tuple[str, ...]) -> list[int]:
    """Where each name stands in another list, capitals aside; :data:`ABSENT` if nowhere."""
    where = {name.casefold(): position for position, name in reversed(list(enumerate(among)))}
    return [where.get(name.casefold(), ABSENT) for name in names]


class Translated:
    """A combination whose detections are of a data set's classes, though the detector knows more of them.

    What it detects of other classes has its place among the best of an image, as in the detector's own library, and is
    left out then.

    Args:
        combine: how candidates become detections of the detector's classes.
        known: those.
        wanted: the data set's.

    Raises:
        InputError: if the detector does not know one of the data set's.
    """

    def __init__(self, combine: Combine, known: Categories, wanted: Categories) -> None:
        lacking = [
            name for name, at in zip(wanted.names, positions(wanted.names, known.names), strict=True) if at == ABSENT
        ]
        if lacking:
            raise InputError(
                f"the weights do not know {len(lacking)} of the data's {len(wanted)} classes: {some(lacking)}; they "
                f"know {some(known.names, 100)}. Names decide: rename the data's categories, or fine-tune "
                "(train.py init_from=...)"
            )
        self.combine = combine
        self.labels = positions(known.names, wanted.names)

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, levels: Tensor) -> Detections:
        found = self.combine(boxes, scores, labels, levels)
        translated = torch.tensor(self.labels, device=found.labels.device)[found.labels]
        rows = (translated != ABSENT).nonzero().flatten()
        return Detections(*(column[rows] for column in found._replace(labels=translated)))
