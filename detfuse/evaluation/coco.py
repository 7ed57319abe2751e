"""COCO evaluation of detections: the exact numbers of pycocotools, by either engine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from detfuse.annotations import Annotations, Results
from detfuse.errors import InputError
from detfuse.evaluation.ceiling import ceiling
from detfuse.evaluation.engines import COCO_AXES, Engine, curves, engine_version
from detfuse.evaluation.ground_truth import annotations_of
from detfuse.evaluation.metrics import METRICS, UNDEFINED, CocoMetrics, metrics_of, scale_of
from detfuse.evaluation.results import matched_ids, results_of
from detfuse.evaluation.rows import Row
from detfuse.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, checked
from detfuse.structures import Categories, Detections, ImageId

__all__ = ["METRICS", "UNDEFINED", "CocoEvaluator", "CocoMetrics", "coco_results"]


@checked
class CocoEvaluator:
    """Scores predictions against one ground truth.

    Ties in score: detections of one image and class rank in the order given, those of different images in ascending
    order of the image id. So the order of the images among the predictions is of no account.

    Args:
        ground_truth: a data set's annotations, or COCO's json form of one (``images``, ``categories``,
            ``annotations``). It is read once and not changed. Images without annotations count: detections in them are
            false.
        engine: ``hotcoco`` (fast) or ``pycocotools`` (the reference); their numbers are equal to the last bit.
        max_detections: how many detections of an image and class count in numbers beside COCO's, which count 100; None:
            in no others.
        areas: further ranges by the side of the objects, the root of their area in pixels: ``{tiny: [0, 16]}`` adds
            ``AP_tiny`` and ``AR_tiny``.

    Raises:
        ValueError: if the engine is unknown or not installed, a range is none, or the ground truth cannot be evaluated;
            the message names the record.
    """

    def __init__(
        self,
        ground_truth: Annotations | Mapping[str, Any],
        *,
        engine: Engine = "hotcoco",
        max_detections: PositiveInt | None = None,
        areas: Mapping[str, tuple[NonNegativeFloat, PositiveFloat]] | None = None,
    ) -> None:
        self.engine: Engine = engine
        self._version = engine_version(engine)
        self._ground_truth = annotations_of(ground_truth)
        self.max_detections = max_detections or COCO_AXES.limits[-1]
        self._scale = scale_of(self.max_detections, _sides(areas or {}))

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
        found_curves = curves(self._ground_truth, found, self.engine, self._scale.axes)
        return metrics_of(found_curves, self._ground_truth, found, name, self._scale)

    def require(self, metric: str) -> None:
        """See that there will be a number of this name.

        Raises:
            ValueError: naming those that there will be.
        """
        self.evaluate([]).value(metric)

    @property
    def ceiling(self) -> str:
        """What the limit of COCO's numbers costs here, for people; nothing where it costs nothing."""
        return ceiling(self._ground_truth, COCO_AXES.limits[-1])


def _sides(given: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    problems = [f"{name!r} is no name of letters and digits" for name in given if not re.fullmatch(r"\w+", name)]
    problems += [f"{name} is COCO's name of a range" for name in given if name in COCO_AXES.areas]
    problems += [f"{name}: {low} is not below {high}" for name, (low, high) in given.items() if not low < high]
    if problems:
        raise InputError(
            f"evaluation.areas: {'; '.join(problems)}; expected such as {{tiny: [0, 16]}}, sides in pixels"
        )
    return {name: (float(low), float(high)) for name, (low, high) in given.items()}


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
