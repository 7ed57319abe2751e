"""Resampling: how a map reaches another map's grid.

Each class is a :class:`~detfuse.protocols.ResampleFactory`: ``Class(in_channels, out_channels, steps)`` crosses
``steps`` levels, and ``forward(x, size)`` returns a map of exactly ``size``, so that odd sizes need no scale factor.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detfuse.errors import InputError
from detfuse.fusion.dysample import DySample
from detfuse.fusion.grid import Down, Up, fit, same_width
from detfuse.fusion.sapa import SAPA
from detfuse.ranges import checked
from detfuse.structures import Size


def check_direction(part: nn.Module, *, up: bool) -> None:
    """Refuse a resampler of the other direction; one that is neither :class:`Up` nor :class:`Down` may do both.

    Raises:
        ValueError: naming the choices of the wanted direction.
    """
    if isinstance(part, Down if up else Up):
        wanted, choices = ("up", UP) if up else ("down", DOWN)
        raise InputError(f"{type(part).__name__} cannot resample {wanted}: choose one of {', '.join(choices)}")


class Nearest(Up):
    """Nearest-neighbour up-sampling (FPN's)."""

    def __init__(self, in_channels: int, out_channels: int, steps: int) -> None:
        super().__init__()
        same_width("nearest", in_channels, out_channels)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return F.interpolate(x, size=size, mode="nearest")


class Bilinear(Up):
    """Bilinear up-sampling with half-pixel centres."""

    def __init__(self, in_channels: int, out_channels: int, steps: int) -> None:
        super().__init__()
        same_width("bilinear", in_channels, out_channels)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class Deconv(Up):
    """Learnt up-sampling: one 4x4 transposed convolution of stride 2 per level, bilinear at the start.

    Source: fully convolutional networks (Long et al. 2015, arXiv 1411.4038), section 4.3, with the start. The
    neck's fill does not apply.
    """

    def __init__(self, in_channels: int, out_channels: int, steps: int) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * steps
        self.stages = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        for stage in self.stages:
            _init_bilinear(stage)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return fit(x, size)


def _init_bilinear(deconv: nn.Module) -> None:
    """Start as bilinear interpolation of each channel; channels beyond the narrower side start at zero."""
    assert isinstance(deconv, nn.ConvTranspose2d)
    tap = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        deconv.weight.zero_()
        for channel in range(min(deconv.in_channels, deconv.out_channels)):
            deconv.weight[channel, channel] = torch.outer(tap, tap)
        if deconv.bias is not None:
            deconv.bias.zero_()


@checked
class MaxPool(Down):
    """Max pooling with a window one larger than the stride (3x3/2 for one level): BiFPN's.

    Args:
        in_channels: width of the map.
        out_channels: the same.
        steps: levels to cross.
        padding: ``symmetric``: as much on either side; ``same``: TensorFlow's, no more than it takes, an odd pixel at
            the right and the bottom. On a map of even size its windows lie a pixel further that way.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        steps: int,
        *,
        padding: Literal["symmetric", "same"] = "symmetric",
    ) -> None:
        super().__init__()
        same_width("max_pool", in_channels, out_channels)
        self.stride = 2**steps
        self.padding = padding

    def forward(self, x: Tensor, size: Size) -> Tensor:
        window, around = self.stride + 1, self.stride // 2
        if self.padding == "same":
            x, around = F.pad(x, [*self._same(x.shape[3]), *self._same(x.shape[2])], value=-torch.inf), 0
        return fit(F.max_pool2d(x, window, self.stride, padding=around), size)

    def _same(self, side: int) -> tuple[int, int]:
        """Pixels before and after, so that there are ``side / stride`` windows, rounded up."""
        missing = -(-side // self.stride) * self.stride + 1 - side
        return missing // 2, missing - missing // 2


class Subsample(Down):
    """Every second pixel (per level): the ``max_pool(kernel 1, stride 2)`` of Faster R-CNN's P6."""

    def __init__(self, in_channels: int, out_channels: int, steps: int) -> None:
        super().__init__()
        same_width("subsample", in_channels, out_channels)
        self.stride = 2**steps

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return fit(F.max_pool2d(x, 1, self.stride), size)


class StridedConv(Down):
    """Learnt down-sampling: one 3x3 convolution of stride 2 per level, ReLU between them (PAFPN's, HRNet's).

    Its start is the neck's fill.
    """

    def __init__(self, in_channels: int, out_channels: int, steps: int) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * steps
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))

    def forward(self, x: Tensor, size: Size) -> Tensor:
        for i, stage in enumerate(self.stages):
            x = stage(x.relu() if i else x)
        return fit(x, size)


class Area(Down):
    """The mean over each target pixel's area."""

    def __init__(self, in_channels: int, out_channels: int, steps: int) -> None:
        super().__init__()
        same_width("area", in_channels, out_channels)
        self.stride = 2**steps

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return fit(F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False), size)


UP: dict[str, type[nn.Module]] = {
    "nearest": Nearest,
    "bilinear": Bilinear,
    "deconv": Deconv,
    "dysample": DySample,
    "sapa": SAPA,
}
"""What a node may pin as ``up``."""

DOWN: dict[str, type[nn.Module]] = {
    "max_pool": MaxPool,
    "strided_conv": StridedConv,
    "area": Area,
    "subsample": Subsample,
}
"""What a node may pin as ``down``."""
