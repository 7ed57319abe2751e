"""Which of the negatives teach, by a mask of fixed shape: nothing here waits for the device, and it compiles."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Sampler = Literal["random", "bootstrap", "mixture"]
"""Drawn at random, the hardest, or half of them the hardest and the others at random (MS-CNN, 2016)."""


def choose_negatives(negative: Tensor, hardness: Tensor, wanted: Tensor, sampler: Sampler) -> Tensor:
    """The negatives of each row that teach: as many as wanted, or all if there are fewer.

    Args:
        negative: (..., P) bool, which may be chosen.
        hardness: (..., P), such as their loss.
        wanted: (..., 1) how many; of fractions the next larger number.
        sampler: how. "random" and "mixture" draw from torch's generator; of an odd number "mixture" takes one more of
            the hardest.

    Returns:
        (..., P) bool, a part of ``negative``.
    """
    if sampler == "bootstrap":
        return _highest(hardness, negative, wanted)
    lots = torch.rand_like(hardness, dtype=torch.float32)
    if sampler == "random":
        return _highest(lots, negative, wanted)
    hardest = _highest(hardness, negative, (wanted.ceil() if wanted.is_floating_point() else wanted) / 2)
    others = negative & ~hardest
    return hardest | _highest(lots, others, wanted - hardest.sum(-1, keepdim=True))


def _highest(measure: Tensor, allowed: Tensor, count: Tensor) -> Tensor:
    """Those ``allowed`` whose measure is among the ``count`` (..., 1) highest of their row; the first of equals."""
    order = measure.masked_fill(~allowed, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter(-1, order, places)
    return allowed & (rank < count)
