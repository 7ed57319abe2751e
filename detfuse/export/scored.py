"""Whether an exported file scores what its detector scores, each given the images in its own way.

The detector gets the batches that evaluation makes. The file gets each image as it lies on the disk: it resizes and
pads by what it says of itself, and tells boxes in pixels of that image. So whatever costs AP between a folder of photos
and the detections shows here, and not only what differs within the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from detfuse.data import Transforms, load_image
from detfuse.data.collate import padded_size
from detfuse.data.index import AnnotationIndex
from detfuse.detector import Detector
from detfuse.evaluation import CocoEvaluator, coco_results
from detfuse.export.description import ExportError
from detfuse.export.exported import Exported
from detfuse.protocols import Combine
from detfuse.structures import Batch, Detections, ImageId

_TOLERANCE = 5e-3  # of AP on a few images, where scores that are equal but for rounding change places


class Scores(NamedTuple):
    """mAP 0..1 on the same images, below 0 where they hold no object.

    Attributes:
        detector: as evaluated.
        file: of the exported file.
    """

    detector: float
    file: float


def chosen(index: AnnotationIndex, transform: Transforms, divisor: int, most: int) -> AnnotationIndex:
    """Some images of a split, of as many shapes as there are: wide and tall ones in turn, the fullest of each first.

    Args:
        index: the split.
        transform: how its images are resized.
        divisor: to multiples of which they are padded.
        most: how many to take.
    """
    sizes = [transform.resized(height, width) for height, width in index.sizes.tolist()]
    canvases = [padded_size(height, width, divisor) for height, width in sizes]
    fullest = np.argsort(-index.counts, kind="stable").tolist()
    by_canvas = _in_turn(fullest, lambda i: canvases[i])
    by_aspect = _in_turn(by_canvas, lambda i: np.sign(sizes[i][0] - sizes[i][1]).item())
    return index.only(np.isin(np.arange(len(index)), by_aspect[:most]))


def _in_turn(positions: Iterable[int], group: Callable[[int], Hashable]) -> list[int]:
    """The first of every group, then the second of every group, and so on."""
    seen: Counter[Hashable] = Counter()
    turns = []
    for position in positions:
        turns.append((seen[group(position)], position))
        seen[group(position)] += 1
    return [position for _, position in sorted(turns, key=lambda turn: turn[0])]


def scores_of(
    exported: Exported,
    detector: Detector,
    combine: Combine,
    index: AnnotationIndex,
    batches: DataLoader[Batch],
    evaluator: CocoEvaluator,
) -> Scores:
    """Score both.

    Args:
        exported: the file.
        detector: what it was exported from, in evaluation mode.
        combine: likewise.
        index: the images.
        batches: the same images, as evaluation has them.
        evaluator: of the same images.

    Raises:
        ExportError: if their mAP differs by more than rounding can explain.
    """
    files = {index.ids[i]: exported(load_image(index.path(i))) for i in range(len(index))}
    found = (_evaluated(detector, combine, index, batches), files)
    scores = Scores(*(evaluator.evaluate(coco_results(each, exported.categories)).stats["mAP"] for each in found))
    if abs(scores.detector - scores.file) > _TOLERANCE:
        raise ExportError(
            f"the exported file has mAP {100 * scores.file:.1f} on {len(index)} validation images, where the detector "
            f"as evaluated has {100 * scores.detector:.1f}: it is not written. Predict with the checkpoint, and tell "
            "the authors which checkpoint and data these are"
        )
    return scores


def _evaluated(
    detector: Detector, combine: Combine, index: AnnotationIndex, batches: DataLoader[Batch]
) -> dict[ImageId, Detections]:
    found = {}
    with torch.inference_mode():
        for batch in batches:
            predicted = detector.predict(batch.images, batch.image_sizes, combine)
            for i, number in enumerate(batch.image_ids.tolist()):
                in_file = predicted[i].to_original(batch.scales[i], batch.original_sizes[i])
                found[index.id_of(number)] = in_file
    return found
