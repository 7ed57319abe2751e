"""What resamplers share: their direction, sizes that are a row off, and widths that stay."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from detfuse.errors import InputError
from detfuse.structures import Size


class Up(nn.Module):
    """Brings a map to a finer level."""


class Down(nn.Module):
    """Brings a map to a coarser level."""


def fit(x: Tensor, size: Size) -> Tensor:
    """Correct a map that is up to a level's factor larger than asked for, or smaller where a backbone rounds down."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="nearest")


def same_width(resample: str, in_channels: int, out_channels: int) -> None:
    """Refuse a change of width by what only moves pixels."""
    if in_channels != out_channels:
        raise InputError(
            f"{resample} cannot change the width from {in_channels} to {out_channels}: let the edge project "
            "(project: true)"
        )
