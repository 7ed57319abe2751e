"""How much two arms of one seed really have in common at the start."""

from __future__ import annotations

import torch
from torch import nn


def share_equal(detector_a: nn.Module, detector_b: nn.Module, apart: tuple[str, ...] = ()) -> float:
    """The share of both detectors' parameters, by number of weights, that are equal in name, shape and value.

    Args:
        detector_a: before its first step, built under the same seed as the other.
        detector_b: the other; on the same device.
        apart: how the names of parameters begin that are not equal, whatever their values are here.

    Returns:
        1 for equal detectors, 0 for two that have nothing in common.
    """
    a, b = dict(detector_a.named_parameters()), dict(detector_b.named_parameters())
    total = sum(parameter.numel() for parameter in (*a.values(), *b.values()))
    # torch.equal is false for unequal shapes
    shared = [name for name in a.keys() & b.keys() if not name.startswith(apart)]
    equal = sum(2 * a[name].numel() for name in shared if torch.equal(a[name], b[name]))
    return equal / total if total else 1.0
