"""What COCO's limit of detections per image costs: a bound of the metric, whatever is detected."""

from __future__ import annotations

import numpy as np

from detfuse.annotations import Annotations
from detfuse.words import points, shown

_RECALLS = np.linspace(0, 1, 101)


def ceiling(ground_truth: Annotations, limit: int) -> str:
    """The mAP that perfect detections score, and why, in a sentence; nothing where that is all.

    Args:
        ground_truth: what is to be found.
        limit: how many detections of an image and class count.
    """
    images, classes = len(ground_truth), len(ground_truth.categories)
    cells = ground_truth.labels * images + ground_truth.images
    counts = np.bincount(cells[ground_truth.counted], minlength=images * classes).reshape(classes, images)
    if counts.max(initial=0) <= limit:
        return ""
    label, image = np.unravel_index(counts.argmax(), counts.shape)
    fullest = f"{counts[label, image]:,} of {shown(ground_truth.categories.names[label])} in {ground_truth.ids[image]}"
    total = counts.sum(1)
    recall = np.minimum(counts, limit).sum(1)[total > 0] / total[total > 0]
    best = float((recall[:, None] >= _RECALLS).mean(1).mean())
    number = int((counts > limit).any(0).sum())
    return (
        f"{number:,} image{'s have' if number > 1 else ' has'} more objects of a class than the {limit} detections "
        f"that COCO's numbers count ({fullest}): perfect detections score {points(best)} mAP"
    )
