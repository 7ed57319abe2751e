"""The COCO numbers: 12 over the data set, and those of each class.

Source: https://cocodataset.org/#detection-eval. A number that is undefined (no ground truth to find) is -1, as in
pycocotools; never 0, never NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detfuse.annotations import Annotations, Results
from detfuse.errors import InputError
from detfuse.evaluation import table
from detfuse.evaluation.engines import COCO_AXES, IOU_THRESHOLDS, Axes, Curves
from detfuse.words import some

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


class Scale(NamedTuple):
    """What is scored: COCO's twelve numbers, and those of one's own.

    Attributes:
        axes: that the engines take.
        definitions: name of a number -> what it is the mean of; COCO's twelve first.
    """

    axes: Axes
    definitions: dict[str, Definition]


def scale_of(max_detections: int, sides: Mapping[str, tuple[float, float]]) -> Scale:
    """COCO's numbers, and more where the limit is not COCO's or there are ranges beside COCO's.

    Args:
        max_detections: of an image and class, that count in the own numbers: ``mAP@300``, ``AP50@300``, ``AP75@300``,
            ``AR300``.
        sides: name of a range -> least and largest side of its objects, the root of their area in pixels: ``AP_tiny``
            and ``AR_tiny``.
    """
    limits = tuple(sorted({*COCO_AXES.limits, max_detections}))
    areas = {name: (low**2, high**2) for name, (low, high) in sides.items()}
    definitions = dict(DEFINITIONS)
    if max_detections != COCO_AXES.limits[-1]:
        for name in ("mAP", "AP50", "AP75"):
            definitions[f"{name}@{max_detections}"] = DEFINITIONS[name]._replace(max_detections=max_detections)
        definitions[f"AR{max_detections}"] = Definition(False, None, "all", max_detections)
    for name in areas:
        definitions[f"AP_{name}"] = Definition(True, None, name, max_detections)
        definitions[f"AR_{name}"] = Definition(False, None, name, max_detections)
    return Scale(Axes(COCO_AXES.areas | areas, limits), definitions)


COCO_SCALE = scale_of(COCO_AXES.limits[-1], {})


@dataclass(frozen=True)
class CocoMetrics:
    """Result of an evaluation; every number is in 0..1, or -1 where it is undefined.

    Attributes:
        engine: which engine computed it, and its version: ``"hotcoco 1.3.0"``.
        stats: the 12 numbers, in the order of :data:`METRICS`, then those of one's own.
        per_class: for each class name, in ascending order of its id, the same numbers (``AP`` instead of ``mAP``).
        num_images: images of the ground truth.
        num_objects: ground truth of each class, without crowds and what is to be ignored.
        num_detections: predictions given.
        definitions: what the numbers are the means of.
    """

    engine: str
    stats: dict[str, float]
    per_class: dict[str, dict[str, float]]
    num_images: int
    num_objects: dict[str, int]
    num_detections: int
    definitions: dict[str, Definition] = field(default_factory=lambda: DEFINITIONS)

    def value(self, name: str) -> float:
        """A number by its name: one of the data set's, or with a class behind a slash of this one's, ``AP50/dog``.

        Raises:
            ValueError: if there is none of this name.
        """
        metric, slash, of_class = name.partition("/")
        values = self.per_class.get(of_class, {}) if slash else self.stats
        if metric not in values:
            raise InputError(f"{name} is no number of this evaluation; there are {names_of(self)}")
        return values[metric]

    def table(self) -> str:
        """The 12 numbers for a terminal; undefined ones are ``n/a``."""
        objects = sum(self.num_objects.values())
        return table.summary_table(
            f"COCO box metrics by {self.engine}: {self.num_images} images, {objects} objects, "
            f"{self.num_detections} detections",
            [(name, *self.definitions[name], value) for name, value in self.stats.items()],
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


def names_of(metrics: CocoMetrics) -> str:
    """For people: what :meth:`CocoMetrics.value` takes."""
    of_one = next(iter(metrics.per_class.values()))
    classes = list(metrics.per_class)
    return f"{', '.join(metrics.stats)}; and {', '.join(of_one)} of a class, such as AP/{some(classes, 3)}"


def metrics_of(
    curves: Curves, ground_truth: Annotations, predictions: Results, engine: str, scale: Scale = COCO_SCALE
) -> CocoMetrics:
    """Average the curves: by one function for both engines, in pycocotools' order of summation."""
    names = ground_truth.categories.names
    per_class: dict[str, dict[str, float]] = {}
    for k, name in enumerate(names):
        one = Curves(curves.precision[:, :, k : k + 1], curves.recall[:, k : k + 1])
        values = {
            metric.replace("mAP", "AP"): _average(one, definition, scale.axes)
            for metric, definition in scale.definitions.items()
        }
        per_class[name] = values
    objects = np.bincount(ground_truth.labels[ground_truth.counted], minlength=len(names))
    return CocoMetrics(
        engine=engine,
        stats={name: _average(curves, definition, scale.axes) for name, definition in scale.definitions.items()},
        per_class=per_class,
        num_images=len(ground_truth),
        num_objects=dict(zip(names, objects.tolist(), strict=True)),
        num_detections=len(predictions),
        definitions=scale.definitions,
    )


def _average(curves: Curves, definition: Definition, axes: Axes) -> float:
    area, limit = list(axes.areas).index(definition.area), axes.limits.index(definition.max_detections)
    values: NDArray[np.float64] = (curves.precision if definition.precision else curves.recall)[..., area, limit]
    if definition.iou is not None:
        values = values[IOU_THRESHOLDS.index(definition.iou)]
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED
