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

from detfuse.annotations import MOST_AREA, Annotations, Results
from detfuse.errors import InputError, UserError

Engine = Literal["hotcoco", "pycocotools"]


class Axes(NamedTuple):
    """What is scored beside IoU thresholds and classes.

    Attributes:
        areas: name of a range -> least and largest area of its objects, square pixels, both included.
        limits: how many detections of an image and class count, ascending.
    """

    areas: dict[str, tuple[float, float]]
    limits: tuple[int, ...]


COCO_AXES = Axes(
    {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}, (1, 10, 100)
)
IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
AREAS = tuple(COCO_AXES.areas)
MAX_DETECTIONS = COCO_AXES.limits


class Curves(NamedTuple):
    """What COCO's ``accumulate`` leaves: T IoU thresholds, R = 101 recalls, K classes, A areas, M detection limits.

    Attributes:
        precision: (T, R, K, A, M) float64; -1 where a class has no ground truth of that area.
        recall: (T, K, A, M) float64; likewise.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def engine_version(engine: Engine) -> str:
    """Installed version of the engine.

    Raises:
        ValueError: if there is no such engine, or it is not installed.
    """
    if engine not in ("hotcoco", "pycocotools"):
        raise InputError(f"unknown engine {engine!r}, expected hotcoco or pycocotools")
    try:
        return metadata.version(engine)
    except metadata.PackageNotFoundError:
        other = "pycocotools" if engine == "hotcoco" else "hotcoco"
        raise InputError(f"{engine} is not installed; install it, or set evaluation.engine={other}") from None


def curves(ground_truth: Annotations, predictions: Results, engine: Engine, axes: Axes = COCO_AXES) -> Curves:
    """Match predictions with the ground truth by COCO's rules for boxes.

    Args:
        ground_truth: with the images in ascending order of their ids.
        predictions: with the positions of that ground truth.
        engine: an installed one.
        axes: area ranges and limits of the detections; those of COCO among others have COCO's numbers.
    """
    return (_hotcoco if engine == "hotcoco" else _pycocotools)(ground_truth, predictions, axes)


def hotcoco_evaluation(ground_truth: Annotations, predictions: Results, axes: Axes = COCO_AXES) -> Any:
    """Hotcoco's ``COCOeval`` of these boxes, with its matches made."""
    from hotcoco import COCO, COCOeval  # here, so that the other engine works without it

    truth = COCO.from_arrays(
        _records(len(ground_truth)),
        _categories(ground_truth),
        ground_truth.images + 1,
        ground_truth.labels + 1,
        ground_truth.boxes,
        area=_judged_areas(ground_truth),
        iscrowd=ground_truth.crowd,
    )
    found = truth.load_res(_result_array(predictions))
    evaluation = COCOeval(truth, found, "bbox")
    _set(evaluation.params, axes)
    evaluation.evaluate()
    return evaluation


def _set(params: Any, axes: Axes) -> None:
    """Of either engine: they have the same names."""
    params.maxDets = list(axes.limits)
    params.areaRng = [list(bounds) for bounds in axes.areas.values()]
    params.areaRngLbl = list(axes.areas)


def _hotcoco(ground_truth: Annotations, predictions: Results, axes: Axes) -> Curves:
    evaluation = hotcoco_evaluation(ground_truth, predictions, axes)
    evaluation.accumulate()
    arrays = evaluation.eval
    if arrays is None:
        raise UserError("hotcoco left no precision and recall arrays; use engine=pycocotools and report this")
    return Curves(arrays["precision"], arrays["recall"])


def _pycocotools(ground_truth: Annotations, predictions: Results, axes: Axes) -> Curves:
    from pycocotools.coco import COCO  # here, so that the other engine works without it
    from pycocotools.cocoeval import COCOeval

    images, categories = _records(len(ground_truth)), _categories(ground_truth)
    truth, found = COCO(), COCO()
    truth.dataset = {"images": images, "categories": categories, "annotations": _truth_rows(ground_truth)}
    # Not by loadRes: it fails on an empty list.
    found.dataset = {"images": images, "categories": categories, "annotations": _result_rows(predictions)}
    with contextlib.redirect_stdout(io.StringIO()):  # its progress messages
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        _set(evaluation.params, axes)
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves(evaluation.eval["precision"], evaluation.eval["recall"])


def _judged_areas(ground_truth: Annotations) -> NDArray[np.float64]:
    """What is to be ignored has an area beyond every range: what an engine ignores that is no crowd.

    Both overwrite ``ignore`` of a record by its ``iscrowd``, which would have it measured as a crowd.
    """
    return np.where(ground_truth.ignore, 2 * MOST_AREA, ground_truth.areas)


def _records(count: int) -> list[dict[str, int]]:
    """The engines' ids are positions plus 1, in the ascending order of the file's ids."""
    return [{"id": number} for number in range(1, count + 1)]


def _categories(ground_truth: Annotations) -> list[dict[str, object]]:
    return [{"id": number, "name": name} for number, name in enumerate(ground_truth.categories.names, start=1)]


def _result_array(predictions: Results) -> NDArray[np.float64]:
    """(N, 7): image, x, y, w, h, score, category."""
    image, category = predictions.images[:, None] + 1, predictions.labels[:, None] + 1
    return np.concatenate([image, predictions.boxes, predictions.scores[:, None], category], axis=1, dtype=np.float64)


def _truth_rows(ground_truth: Annotations) -> list[dict[str, object]]:
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    columns = (ground_truth.images + 1, ground_truth.labels + 1, ground_truth.boxes, _judged_areas(ground_truth))
    crowd = ground_truth.crowd.astype(np.int64).tolist()
    values = zip(range(1, len(crowd) + 1), *(column.tolist() for column in columns), crowd, strict=True)
    return [dict(zip(keys, row, strict=True)) for row in values]


def _result_rows(predictions: Results) -> list[dict[str, object]]:
    keys = ("id", "image_id", "category_id", "bbox", "area", "score")
    area = predictions.boxes[:, 2] * predictions.boxes[:, 3]
    columns = (predictions.images + 1, predictions.labels + 1, predictions.boxes, area, predictions.scores)
    values = zip(range(1, len(area) + 1), *(column.tolist() for column in columns), strict=True)
    return [dict(zip(keys, row, strict=True)) for row in values]
