"""The layers of SSDLite: convolutions with batch norm and ReLU6, depthwise where they are 3x3.

Paper: MobileNetV2, 2018, https://arxiv.org/abs/1801.04381, section 6.2; as in torchvision's
``ssdlite320_mobilenet_v3_large``, whose names of weights and start, N(0, .03), they have.
"""

from __future__ import annotations

from torch import nn

_EPS, _MOMENTUM = 1e-3, 0.03  # of the norms, torchvision's
_STD = 0.03


def lite_conv(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """One convolution without bias, its norm and ReLU6, started."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    nn.init.normal_(layer.weight, std=_STD)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels, eps=_EPS, momentum=_MOMENTUM), nn.ReLU6(inplace=True))


def lite_predictor(in_channels: int, out_channels: int) -> nn.Sequential:
    """What predicts from a map: 3x3 depthwise, then 1x1."""
    last = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.normal_(last.weight, std=_STD)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]  # it has one
    return nn.Sequential(lite_conv(in_channels, in_channels, 3, groups=in_channels), last)


def lite_extra(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """What makes a map smaller: 1x1 to half the width, 3x3 depthwise, 1x1."""
    half = out_channels // 2
    return nn.Sequential(
        lite_conv(in_channels, half, 1),
        lite_conv(half, half, 3, stride=stride, groups=half),
        lite_conv(half, out_channels, 1),
    )
