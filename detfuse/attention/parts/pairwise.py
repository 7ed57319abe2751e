"""Attention between all pairs of positions: what Non-local and SAGAN share, and what it costs in memory.

Matrices are (B, N, M): rows are the N query positions, columns the M key positions. Normalisation runs over the
*columns* (dim -1) and so does the sum that follows; normalising over one axis and summing over the other leaves
weights that do not sum to 1, which no metric reveals.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detfuse.errors import InputError
from detfuse.structures import Size


def max_pool(x: Tensor) -> Tensor:
    """2x2 max-pooling, stride 2, (B, C, H, W) to (B, C, H//2, W//2); a side of 1 stays 1."""
    height, width = x.shape[-2:]
    # a side of 1 gets a second pixel, without a choice by size, so that a graph holds for all sizes
    lacking: Any = (0, torch.sym_max(0, 2 - width), 0, torch.sym_max(0, 2 - height))
    return F.max_pool2d(F.pad(x, lacking, value=-math.inf), 2, 2)


def pooled(size: Size) -> Size:
    """The size that :func:`max_pool` leaves of a map of (height, width)."""
    height, width = size
    return max(1, height // 2), max(1, width // 2)


def full_precision(x: Tensor) -> Tensor:
    """float32 for half and bfloat16; wider types stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def similarity(query: Tensor, key: Tensor) -> Tensor:
    """Dot product of every query with every key, in float32 even under autocast.

    float16 overflows at 65504, which 256 channels reach at activations of 16; bfloat16 rounds a logit of 100 to halves.

    Args:
        query: (B, D, H, W).
        key: (B, D, H', W').

    Returns:
        (B, HW, H'W').
    """
    with torch.autocast(query.device.type, enabled=False):
        return full_precision(query).flatten(2).transpose(1, 2) @ full_precision(key).flatten(2)


def attend(weights: Tensor, value: Tensor, size: Size) -> Tensor:
    """Sum of the values over the key positions.

    Args:
        weights: (B, HW, M).
        value: (B, D, H', W') with H'W' = M.
        size: (H, W) of the query map.

    Returns:
        (B, D, H, W) in the type of ``value``.
    """
    summed = value.flatten(2) @ weights.to(value.dtype).transpose(1, 2)
    return summed.reshape(*value.shape[:2], *size)


def peak_bytes(size: Size, key_size: Size, batch: int, dtype_bytes: int, *, rectified: bool = True) -> int:
    """Bytes of the (B, N, M) matrices alive at the worst moment of a training step.

    Under a softmax or a ReLU that moment is its backward: its output, the gradient of its output and the gradient of
    its input, all in float32. Without one it is the matrix beside its copy or its gradient in the type of the values.

    Args:
        size: (H, W) of the queries.
        key_size: (H', W') of the keys.
        batch: images per device.
        dtype_bytes: size of the type of the values.
        rectified: whether the logits pass a softmax or a ReLU.

    Raises:
        ValueError: if a size, the batch or ``dtype_bytes`` is less than 1.
    """
    if min(*size, *key_size, batch, dtype_bytes) < 1:
        given = f"height={size[0]}, width={size[1]}, batch={batch}, dtype_bytes={dtype_bytes}"
        raise InputError(f"the memory of pairwise attention needs sizes of at least 1, got {given}")
    elements = batch * size[0] * size[1] * key_size[0] * key_size[1]
    logit_bytes = max(4, dtype_bytes)
    return elements * (3 * logit_bytes if rectified else logit_bytes + dtype_bytes)
