"""COCO numbers as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from detfuse.words import ruled

MAX_NAME = 28  # characters of a class name


def summary_table(title: str, rows: Iterable[tuple[str, bool, float | None, str, int, float]]) -> str:
    """The numbers of a data set, one per line.

    Args:
        title: first line.
        rows: name, whether it is a precision (else a recall), IoU threshold (None: mean over .50:.95), area, detections
            per image, value.
    """
    cells = [
        [
            name,
            "average precision" if precision else "average recall",
            "0.50:0.95" if iou is None else f"{iou:.2f}",
            area,
            str(limit),
            _number(value),
        ]
        for name, precision, iou, area, limit, value in rows
    ]
    return "\n".join([title, *ruled(["metric", "meaning", "IoU", "area", "maxDets", "value"], cells, left=range(4))])


def class_table(per_class: Mapping[str, Mapping[str, float]], num_objects: Mapping[str, int]) -> str:
    """One line per class: number of objects, then the precisions and the recall at 100 detections."""
    metrics = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    cells = [
        [_shortened(name), str(num_objects[name]), *(_number(values[metric]) for metric in metrics)]
        for name, values in per_class.items()
    ]
    return "\n".join(ruled(["class", "objects", *metrics], cells))


def _number(value: float) -> str:
    return "n/a" if value < 0 else f"{value:.4f}"


def _shortened(name: str) -> str:
    one_line = " ".join(name.split())
    return one_line if len(one_line) <= MAX_NAME else one_line[: MAX_NAME - 1] + "…"
