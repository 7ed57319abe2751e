"""The COCO numbers: 12 over the data set, and those of each class.

Source: https://cocodataset.org/#detection-eval. A number that is undefined (no ground truth to find) is -1, as in
pycocotools; never 0, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detfuse.annotations import Annotations, Results
from detfuse.evaluation import table
from detfuse.evaluation.engines import AREAS, IOU_THRESHOLDS, MAX_DETECTIONS, Curves

UNDEFINED = -1.0


class Definition(NamedTuple):
    """Which slice of the curves a number is the mean of; ``iou`` None is the mean over .50, .55 ... .95."""

    precision: bool
    iou: float | None
    area: str
    max_detections: int


DEFINITIONS = {
    "mAP": Definition(True, None, "all", 100),
    "AP50": Definition(True, 0.5, "all", 100),
    "AP75": Definition(True, 0.75, "all", 100),
    "APs": Definition(True, None, "small", 100),
    "APm": Definition(True, None, "medium", 100),
    "APl": Definition(True, None, "large", 100),
    "AR1": Definition(False, None, "all", 1),
    "AR10": Definition(False, None, "all", 10),
    "AR100": Definition(False, None, "all", 100),
    "ARs": Definition(False, None, "small", 100),
    "ARm": Definition(False, None, "medium", 100),
    "ARl": Definition(False, None, "large", 100),
}
METRICS = tuple(DEFINITIONS)


@dataclass(frozen=True)
class CocoMetrics:
    """Result of an evaluation; every number is in 0..1, or -1 where it is undefined.

    Attributes:
        engine: which engine computed it, and its version: ``"hotcoco 1.3.0"``.
        stats: the 12 numbers, in the order of :data:`METRICS`.
        per_class: for each class name, in ascending order of its id, the same numbers (``AP`` instead of ``mAP``).
        num_images: images of the ground truth.
        num_objects: ground truth of each class, without crowds and what is to be ignored.
        num_detections: predictions given.
    """

    engine: str
    stats: dict[str, float]
    per_class: dict[str, dict[str, float]]
    num_images: int
    num_objects: dict[str, int]
    num_detections: int

    def table(self) -> str:
        """The 12 numbers for a terminal; undefined ones are ``n/a``."""
        objects = sum(self.num_objects.values())
        return table.summary_table(
            f"COCO box metrics by {self.engine}: {self.num_images} images, {objects} objects, "
            f"{self.num_detections} detections",
            [(name, *DEFINITIONS[name], value) for name, value in self.stats.items()],
        )

    def class_table(self) -> str:
        """One row per class for a terminal; undefined numbers are ``n/a``."""
        return table.class_table(self.per_class, self.num_objects)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for strict JSON: no NaN, undefined numbers are -1."""
        return {
            "engine": self.engine,
            "stats": dict(self.stats),
            "per_class": {name: dict(values) for name, values in self.per_class.items()},
            "num_images": self.num_images,
            "num_objects": dict(self.num_objects),
            "num_detections": self.num_detections,
            "undefined": UNDEFINED,
        }


def metrics_of(curves: Curves, ground_truth: Annotations, predictions: Results, engine: str) -> CocoMetrics:
    """Average the curves: by one function for both engines, in pycocotools' order of summation."""
    names = ground_truth.categories.names
    per_class: dict[str, dict[str, float]] = {}
    for k, name in enumerate(names):
        one = Curves(curves.precision[:, :, k : k + 1], curves.recall[:, k : k + 1])
        values = {metric: _average(one, definition) for metric, definition in DEFINITIONS.items()}
        per_class[name] = {"AP": values.pop("mAP"), **values}
    objects = np.bincount(ground_truth.labels[ground_truth.counted], minlength=len(names))
    return CocoMetrics(
        engine=engine,
        stats={metric: _average(curves, definition) for metric, definition in DEFINITIONS.items()},
        per_class=per_class,
        num_images=len(ground_truth),
        num_objects=dict(zip(names, objects.tolist(), strict=True)),
        num_detections=len(predictions),
    )


def _average(curves: Curves, definition: Definition) -> float:
    area, limit = AREAS.index(definition.area), MAX_DETECTIONS.index(definition.max_detections)
    values: NDArray[np.float64] = (curves.precision if definition.precision else curves.recall)[..., area, limit]
    if definition.iou is not None:
        values = values[IOU_THRESHOLDS.index(definition.iou)]
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED
