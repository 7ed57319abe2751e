"""COCO evaluation of detections: the exact numbers of pycocotools, by either engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from detfuse.errors import InputError
from detfuse.evaluation.columns import ground_truth_columns, prediction_columns
from detfuse.evaluation.engines import Engine, curves, engine_version
from detfuse.evaluation.metrics import METRICS, UNDEFINED, CocoMetrics, metrics_of
from detfuse.structures import Categories, Detections, ImageId

__all__ = ["METRICS", "UNDEFINED", "CocoEvaluator", "CocoMetrics", "coco_results"]


class CocoEvaluator:
    """Scores predictions against one ground truth.

    Ties in score: detections of one image and class rank in the order given, those of different images in ascending
    order of the image id. So the order of the images among the predictions is of no account.

    Args:
        ground_truth: a data set in COCO's json form (``images``, ``categories``, ``annotations``). It is read once and
            not changed. Images without annotations count: detections in them are false.
        engine: ``hotcoco`` (fast) or ``pycocotools`` (the reference); their numbers are equal to the last bit.

    Raises:
        ValueError: if the engine is unknown or the ground truth cannot be evaluated; the message names the record.
    """

    def __init__(self, ground_truth: Mapping[str, Any], *, engine: Engine = "hotcoco") -> None:
        if engine not in ("hotcoco", "pycocotools"):
            raise InputError(f"unknown engine {engine!r}, expected hotcoco or pycocotools")
        self.engine: Engine = engine
        self._ground_truth = ground_truth_columns(ground_truth)

    def evaluate(self, predictions: Sequence[Mapping[str, Any]]) -> CocoMetrics:
        """Score COCO result rows; any number per image, of which the best 100 per class count.

        Args:
            predictions: rows with ``image_id``, ``category_id``, ``bbox`` (xywh, pixels of the file) and ``score``.
                They are not changed. An empty list is fine: 0 wherever there is ground truth, undefined elsewhere.

        Raises:
            ValueError: if a row names an unknown image or category, or has a number that is not finite.
        """
        found = prediction_columns(predictions, self._ground_truth)
        name = f"{self.engine} {engine_version(self.engine)}"
        return metrics_of(curves(self._ground_truth, found, self.engine), self._ground_truth, found, name)


def coco_results(detections: Detections, image_id: ImageId, categories: Categories) -> list[dict[str, Any]]:
    """Detections of one image as COCO result rows, in the same order.

    Args:
        detections: boxes in pixels of the file (after ``to_original``).
        image_id: the id of the annotation file.
        categories: which category id a label stands for.

    Returns:
        Plain rows ``{image_id, category_id, bbox, score}``, bbox as x, y, width, height; exact under a JSON round trip.
    """
    corners = detections.boxes.detach().cpu().double()  # so that the widths are exact differences
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
    columns = zip(detections.labels.tolist(), boxes.tolist(), detections.scores.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": categories.ids[label], "bbox": box, "score": score}
        for label, box, score in columns
    ]
