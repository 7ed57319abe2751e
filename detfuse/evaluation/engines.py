"""The two COCO engines behind one function: columns in, precision and recall arrays out.

pycocotools is the reference; hotcoco is a re-implementation that gives the same arrays to the last bit and is many
times faster. Both keep the order given among detections of equal score in one image and class, and go through the
images in ascending order of their ids; so a result does not depend on the order of the images in the list.
"""

from __future__ import annotations

import contextlib
import io
from importlib import metadata
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detfuse.errors import InputError, UserError
from detfuse.evaluation.columns import GroundTruthColumns, PredictionColumns

Engine = Literal["hotcoco", "pycocotools"]

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
AREAS = ("all", "small", "medium", "large")
MAX_DETECTIONS = (1, 10, 100)


class Curves(NamedTuple):
    """What COCO's ``accumulate`` leaves: T IoU thresholds, R = 101 recalls, K classes, A areas, M detection limits.

    Attributes:
        precision: (T, R, K, A, M) float64; -1 where a class has no ground truth of that area.
        recall: (T, K, A, M) float64; likewise.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def engine_version(engine: Engine) -> str:
    """Installed version of the engine."""
    return metadata.version(engine)


def curves(ground_truth: GroundTruthColumns, predictions: PredictionColumns, engine: Engine) -> Curves:
    """Match predictions with the ground truth by COCO's rules for boxes.

    Raises:
        ValueError: if the engine is unknown.
    """
    if engine == "hotcoco":
        return _hotcoco(ground_truth, predictions)
    if engine == "pycocotools":
        return _pycocotools(ground_truth, predictions)
    raise InputError(f"unknown engine {engine!r}, expected hotcoco or pycocotools")


def hotcoco_evaluation(ground_truth: GroundTruthColumns, predictions: PredictionColumns) -> Any:
    """Hotcoco's ``COCOeval`` of these boxes, with its matches made."""
    from hotcoco import COCO, COCOeval  # here, so that the other engine works without it

    truth = COCO.from_arrays(
        _records(len(ground_truth.image_ids)),
        _categories(ground_truth),
        ground_truth.image,
        ground_truth.category,
        ground_truth.boxes,
        area=ground_truth.area,
        iscrowd=ground_truth.crowd,
    )
    found = truth.load_res(_result_array(predictions))
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    return evaluation


def _hotcoco(ground_truth: GroundTruthColumns, predictions: PredictionColumns) -> Curves:
    evaluation = hotcoco_evaluation(ground_truth, predictions)
    evaluation.accumulate()
    arrays = evaluation.eval
    if arrays is None:
        raise UserError("hotcoco left no precision and recall arrays; use engine=pycocotools and report this")
    return Curves(arrays["precision"], arrays["recall"])


def _pycocotools(ground_truth: GroundTruthColumns, predictions: PredictionColumns) -> Curves:
    from pycocotools.coco import COCO  # here, so that the other engine works without it
    from pycocotools.cocoeval import COCOeval

    images, categories = _records(len(ground_truth.image_ids)), _categories(ground_truth)
    truth, found = COCO(), COCO()
    truth.dataset = {"images": images, "categories": categories, "annotations": _truth_rows(ground_truth)}
    # Not by loadRes: it fails on an empty list.
    found.dataset = {"images": images, "categories": categories, "annotations": _result_rows(predictions)}
    with contextlib.redirect_stdout(io.StringIO()):  # its progress messages
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves(evaluation.eval["precision"], evaluation.eval["recall"])


def _records(count: int) -> list[dict[str, int]]:
    return [{"id": rank} for rank in range(1, count + 1)]


def _categories(ground_truth: GroundTruthColumns) -> list[dict[str, object]]:
    return [{"id": rank, "name": name} for rank, name in enumerate(ground_truth.categories.names, start=1)]


def _result_array(predictions: PredictionColumns) -> NDArray[np.float64]:
    """(N, 7): image, x, y, w, h, score, category."""
    image, category = predictions.image[:, None], predictions.category[:, None]
    return np.concatenate([image, predictions.boxes, predictions.scores[:, None], category], axis=1, dtype=np.float64)


def _truth_rows(ground_truth: GroundTruthColumns) -> list[dict[str, object]]:
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    columns = (ground_truth.image, ground_truth.category, ground_truth.boxes, ground_truth.area)
    crowd = ground_truth.crowd.astype(np.int64).tolist()
    values = zip(range(1, len(crowd) + 1), *(column.tolist() for column in columns), crowd, strict=True)
    return [dict(zip(keys, row, strict=True)) for row in values]


def _result_rows(predictions: PredictionColumns) -> list[dict[str, object]]:
    keys = ("id", "image_id", "category_id", "bbox", "area", "score")
    area = predictions.boxes[:, 2] * predictions.boxes[:, 3]
    columns = (predictions.image, predictions.category, predictions.boxes, area, predictions.scores)
    values = zip(range(1, len(area) + 1), *(column.tolist() for column in columns), strict=True)
    return [dict(zip(keys, row, strict=True)) for row in values]
