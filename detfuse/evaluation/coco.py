"""COCO evaluation of detections: the exact numbers of pycocotools, by either engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from detfuse.annotations import Annotations, Results
from detfuse.evaluation.engines import Engine, curves, engine_version
from detfuse.evaluation.ground_truth import annotations_of
from detfuse.evaluation.metrics import METRICS, UNDEFINED, CocoMetrics, metrics_of
from detfuse.evaluation.results import matched_ids, results_of
from detfuse.evaluation.rows import Row
from detfuse.structures import Categories, Detections, ImageId

__all__ = ["METRICS", "UNDEFINED", "CocoEvaluator", "CocoMetrics", "coco_results"]


class CocoEvaluator:
    """Scores predictions against one ground truth.

    Ties in score: detections of one image and class rank in the order given, those of different images in ascending
    order of the image id. So the order of the images among the predictions is of no account.

    Args:
        ground_truth: a data set's annotations, or COCO's json form of one (``images``, ``categories``,
            ``annotations``). It is read once and not changed. Images without annotations count: detections in them are
            false.
        engine: ``hotcoco`` (fast) or ``pycocotools`` (the reference); their numbers are equal to the last bit.

    Raises:
        ValueError: if the engine is unknown or not installed, or the ground truth cannot be evaluated; the message
            names the record.
    """

    def __init__(self, ground_truth: Annotations | Mapping[str, Any], *, engine: Engine = "hotcoco") -> None:
        self.engine: Engine = engine
        self._version = engine_version(engine)
        self._ground_truth = annotations_of(ground_truth)

    def evaluate(self, predictions: Results | Sequence[Row]) -> CocoMetrics:
        """Score results; any number per image, of which the best 100 per class count.

        Args:
            predictions: results, or COCO's rows of them: ``image_id``, ``category_id``, ``bbox`` (xywh, pixels of the
                file) and ``score``. They are not changed. None at all is fine: 0 wherever there is ground truth,
                undefined elsewhere.

        Raises:
            ValueError: if a row names an unknown image or category, or has a number that is not finite.
        """
        found = matched_ids(results_of(predictions), self._ground_truth)
        name = f"{self.engine} {self._version}"
        return metrics_of(curves(self._ground_truth, found, self.engine), self._ground_truth, found, name)


_NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), *torch.zeros(2, 0, dtype=torch.int64))


def coco_results(
    detections: Mapping[int, Detections] | Mapping[str, Detections] | Mapping[ImageId, Detections],
    categories: Categories,
) -> Results:
    """Detections as results, with the images and, in each, the detections in the order given.

    Args:
        detections: of each image, by the annotation file's id; boxes in pixels of the file (after ``to_original``).
        categories: which category id a label stands for.
    """
    columns = zip(_NOTHING, *detections.values(), strict=True)  # there may be no image
    corners, scores, labels, _ = (torch.cat([part.detach().cpu() for part in column]) for column in columns)
    corners = corners.double()  # so that the widths are exact differences
    return Results(
        ids=tuple(detections),
        category_ids=categories.ids,
        images=np.repeat(np.arange(len(detections)), [len(found.scores) for found in detections.values()]),
        labels=labels.numpy(),
        boxes=torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).numpy(),
        scores=scores.double().numpy(),
    )
