"""Boxes of a padded batch: overlap, codes and clipping.

Boxes are xyxy pixels. torchvision's coders and clipping take one image at a time, and some of its functions select by
boolean masks, which waits for the GPU and cannot be exported; these take (B, ...) and do neither. Its ``box_iou`` takes
batches, but half as fast on a CPU (coordinates are last), and gives NaN for two empty boxes, as padded rows are, and as
boxes become that are cut at the border of their image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_RATIO = math.log(1000 / 16)
"""Largest log(width / anchor width) that is decoded, as in Fast R-CNN: keeps exp() finite."""


def pairwise_iou(boxes: Tensor, priors: Tensor) -> Tensor:
    """Intersection over union of every box with every prior.

    Args:
        boxes: (B, N, 4).
        priors: (A, 4), the same for each image, or (B, 1, A, 4).

    Returns:
        (B, N, A), 0 where both boxes are empty. The long axis is last, so that each step runs along memory.
    """
    x0, y0, x1, y1 = boxes[..., None].unbind(2)
    left, top, right, bottom = priors.unbind(-1)
    width = (torch.minimum(x1, right) - torch.maximum(x0, left)).clamp(min=0)
    height = (torch.minimum(y1, bottom) - torch.maximum(y0, top)).clamp(min=0)
    shared = width * height
    union = (x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - shared
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def encode_deltas(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes as offsets of anchors: (dx, dy) in anchor sizes, (dw, dh) as log ratios (R-CNN, 2014).

    Args:
        boxes: (..., 4), of positive width and height.
        anchors: (..., 4), broadcast against ``boxes``.
    """
    size = anchors[..., 2:] - anchors[..., :2]
    shift = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / (2 * size)
    return torch.cat([shift, ((boxes[..., 2:] - boxes[..., :2]) / size).log()], dim=-1)


def decode_deltas(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Inverse of :func:`encode_deltas`; log ratios above ``MAX_LOG_RATIO`` are cut.

    Args:
        deltas: (..., 4).
        anchors: (..., 4), broadcast against ``deltas``.
    """
    size = anchors[..., 2:] - anchors[..., :2]
    center = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * size
    half = deltas[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * size / 2
    return torch.cat([center - half, center + half], dim=-1)


def decode_distances(distances: Tensor, points: Tensor) -> Tensor:
    """Boxes from the distances (left, top, right, bottom) of their sides to a point.

    Args:
        distances: (..., 4) in pixels.
        points: (..., 2) as (x, y), broadcast against ``distances``.
    """
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def clip_to_images(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Cut boxes at the border of their image, so that none reaches into the padding.

    Args:
        boxes: (B, k, 4).
        image_sizes: (B, 2) as (height, width).
    """
    limits = image_sizes.flip(-1).repeat(1, 2)[:, None].to(boxes.dtype)
    return boxes.clamp(min=0).minimum(limits)
