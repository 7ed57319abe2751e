"""Which objects of an image a detector finds, without a threshold of its scores."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from detfuse.annotations import Annotations, Results

IOU = 0.5

Positions = NDArray[np.int64]
"""(n,) of annotations, or of results."""


def wanted(truth: Annotations, image: int) -> Positions:
    """The objects of the image at this position that are to be found: all but crowds and what is to be ignored."""
    start, end = truth.offsets[image : image + 2]
    return np.arange(start, end)[truth.counted[start:end]]


def best(results: Results, rows: Positions, number: int) -> Positions:
    """The highest-scored of some detections."""
    return rows[np.argsort(-results.scores[rows], kind="stable")[:number]]


def all_found(truth: Annotations, results: Results) -> NDArray[np.int64]:
    """(I,) how many objects of each image its best detections find, see :func:`found_by`."""
    found = np.zeros(len(truth), np.int64)
    of_images = results.by_image()
    for image in np.flatnonzero(truth.counts).tolist():
        found[image] = len(found_by(truth, wanted(truth, image), results, of_images[image]))
    return found


def found_by(truth: Annotations, objects: Positions, results: Results, rows: Positions) -> dict[int, int]:
    """The objects of an image that its best detections find (as many of these as there are objects), and by which.

    A detection finds the object of its class that it overlaps most, of those that no better one has found, at an IoU
    of at least .5.

    Args:
        truth: of the data set.
        objects: those to be found in the image.
        results: with the truth's positions.
        rows: those of the image.

    Returns:
        Position of the object -> that of the detection.
    """
    detections = best(results, rows, len(objects))
    if not len(detections):
        return {}
    overlap = box_iou(corners(results.boxes[detections]), corners(truth.boxes[objects]))
    overlap[torch.from_numpy(results.labels[detections][:, None] != truth.labels[objects][None])] = 0
    found: dict[int, int] = {}  # column -> row
    for place, row in enumerate(overlap):
        row[list(found)] = 0
        value, column = row.max(0)
        if value >= IOU:
            found[int(column)] = place
    return {int(objects[column]): int(detections[place]) for column, place in found.items()}


def corners(boxes: NDArray[np.float64]) -> Tensor:
    """(n, 4) xywh -> (n, 4) float32 xyxy."""
    xyxy: Tensor = box_convert(torch.from_numpy(boxes).float(), "xywh", "xyxy")
    return xyxy
