"""Which objects of an image a detector finds, without a threshold of its scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

IOU = 0.5

Rows = Sequence[Mapping[str, Any]]
"""Annotations, or COCO result rows."""


def by_image(rows: Rows) -> dict[Any, list[Mapping[str, Any]]]:
    """Rows by their image, in their order; images without rows have none."""
    found: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["image_id"]].append(row)
    return found


def wanted(objects: Rows) -> list[Mapping[str, Any]]:
    """The objects of an image that are to be found: all but crowds."""
    return [record for record in objects if not record.get("iscrowd", 0)]


def best(rows: Rows, number: int) -> list[Mapping[str, Any]]:
    """The highest-scored detections of an image."""
    return sorted(rows, key=lambda row: -row["score"])[:number]


def num_found(objects: Rows, rows: Rows) -> int:
    """How many objects of an image its best detections find, as many of these as there are objects.

    A detection finds the object of its class that it overlaps most, of those that no better one has found, at an IoU
    of at least .5.
    """
    to_find = wanted(objects)
    detections = best(rows, len(to_find))
    if not detections:
        return 0
    overlap = box_iou(boxes(detections), boxes(to_find))
    overlap[_categories(detections)[:, None] != _categories(to_find)[None]] = 0
    found: list[int] = []
    for row in overlap:
        row[found] = 0
        value, position = row.max(0)
        if value >= IOU:
            found.append(int(position))
    return len(found)


def boxes(rows: Rows) -> Tensor:
    """(n, 4) xyxy pixels."""
    xywh = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
    corners: Tensor = box_convert(xywh, "xywh", "xyxy")
    return corners


def _categories(rows: Rows) -> Tensor:
    return torch.tensor([row["category_id"] for row in rows], dtype=torch.int64)
