"""Whether an exported file computes what the detector computes.

Two engines round differently, so candidates of almost equal score change places, and of those at the very end of a list
either may be in it. Candidates are therefore compared as sets. The suppression is compared on the file's own
candidates, where nothing but the suppression can differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from detfuse.detector import Detector
from detfuse.export.deployed import CANDIDATES, place
from detfuse.export.description import ExportError
from detfuse.export.exported import Exported, detections
from detfuse.protocols import Combine
from detfuse.structures import Detections

_SCORE_TOLERANCE = 1e-4
_BOX_TOLERANCE = 1e-5  # of the longer side: a hundredth of a pixel in a thousand
_LEAST_BOX_TOLERANCE = 1e-3  # pixels
_APART = 1e9  # between labels, in tolerances: rows of different labels are never alike


class NamedImage(NamedTuple):
    """A resized image (3, h, w) uint8, and what to call it."""

    name: str
    image: Tensor


@dataclass(frozen=True)
class Agreement:
    """How well a file and its detector agree.

    Attributes:
        pictures: how many were compared.
        candidates: how many candidates the detector had in them.
        detections: how many detections are left of the file's.
        box_difference: greatest difference of a candidate's box, in pixels of the resized image.
        score_difference: greatest difference of a candidate's score.
    """

    pictures: int
    candidates: int
    detections: int
    box_difference: float
    score_difference: float


def agreement_of(exported: Exported, detector: Detector, combine: Combine, pictures: Sequence[NamedImage]) -> Agreement:
    """Run both on the same pictures, each padded as evaluation pads it.

    Args:
        exported: the file.
        detector: what it was exported from, in evaluation mode.
        combine: likewise.
        pictures: of any sizes.

    Raises:
        ExportError: if they differ by more than rounding, or the detector's outputs are not finite.
    """
    candidates = found = 0
    greatest = torch.zeros(2, dtype=torch.float64)
    for picture in pictures:
        inputs = place(picture.image, exported.description.divisor)
        box_tolerance = max(_LEAST_BOX_TOLERANCE, _BOX_TOLERANCE * max(inputs[0].shape[-2:]))
        tolerance = torch.tensor([box_tolerance] * 4 + [_SCORE_TOLERANCE], dtype=torch.float64)
        with torch.inference_mode():
            expected = Detections(*(column[0] for column in detector.candidates(*inputs)))
        if expected.broken:
            raise ExportError(f"the detector's outputs in {picture.name} are not finite: there is nothing to compare")
        outputs = exported.run(*inputs)
        given = Detections(*(outputs[name][0] for name in CANDIDATES))
        kept = detections(outputs)
        wanted = combine(*given)
        if len(kept.scores) != len(wanted.scores):
            raise ExportError(
                f"the exported file's detections in {picture.name} differ from the detector's: {len(kept.scores)} "
                f"where {len(wanted.scores)} are right"
            )
        for what, ours, theirs in (("candidates", expected, given), ("detections", wanted, kept)):
            boxes, scores = _difference(_existing(ours), _existing(theirs), tolerance)
            if not (boxes <= box_tolerance and scores <= _SCORE_TOLERANCE):
                raise ExportError(
                    f"the exported file's {what} in {picture.name} differ from the detector's: boxes by {boxes:.2g} px "
                    f"and scores by {scores:.2g}, where {box_tolerance:.2g} px and {_SCORE_TOLERANCE:.2g} are rounding"
                )
            if what == "candidates":
                greatest = greatest.maximum(torch.tensor([boxes, scores], dtype=torch.float64))
        candidates += len(_existing(expected).scores)
        found += len(kept.scores)
    return Agreement(len(pictures), candidates, found, *greatest.tolist())


def _existing(rows: Detections) -> Detections:
    is_one = rows.scores > 0
    return Detections(*(column[is_one] for column in rows))


def _difference(ours: Detections, theirs: Detections, tolerance: Tensor) -> tuple[float, float]:
    """Greatest differences of boxes and scores, each row against the one of the other set that is most like it."""
    greatest = torch.zeros(2, dtype=torch.float64)
    for level in torch.unique(torch.cat([ours.levels, theirs.levels])):
        a, b = (_table(rows, rows.levels == level, tolerance) for rows in (ours, theirs))
        for one, other in ((a, b), (b, a)):
            if not len(one):
                continue
            # the last of a list may be in one and not in the other, where its score is at the edge of either
            last = one[:, 4].min()
            if not len(other):
                greatest = _worst(greatest, one[one[:, 4] > last + 1].abs(), tolerance)
                continue
            distance, match = torch.cdist(one, other, p=torch.inf).min(dim=1)
            apart = (one - other[match]).abs()
            greatest = _worst(greatest, apart[(distance <= 1) | (one[:, 4] > last + 1)], tolerance)
    return float(greatest[0]), float(greatest[1])


def _worst(greatest: Tensor, apart: Tensor, tolerance: Tensor) -> Tensor:
    """With rows (n, 6) of differences in tolerances; a row of another label counts as its whole box."""
    if not len(apart):
        return greatest
    boxes = torch.where(apart[:, 5] > 0, apart[:, 5], apart[:, :4].amax(dim=1)).max() * tolerance[0]
    return greatest.maximum(torch.stack([boxes, apart[:, 4].max() * tolerance[4]]))


def _table(rows: Detections, chosen: Tensor, tolerance: Tensor) -> Tensor:
    """(n, 6) boxes and scores in tolerances, and labels far apart."""
    columns = [rows.boxes[chosen].double(), rows.scores[chosen, None].double()]
    return torch.cat([torch.cat(columns, dim=1) / tolerance, rows.labels[chosen, None].double() * _APART], dim=1)
