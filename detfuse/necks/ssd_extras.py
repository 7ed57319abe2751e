"""What SSD puts between its backbone and its predictors: L2Norm, the converted fc6 and fc7, and the extra levels.

Paper: SSD: Single Shot MultiBox Detector, 2016, https://arxiv.org/abs/1512.02325
Variant: SSD300 on VGG-16 cut after conv4_3 and conv5_3; 300 x 300 pixels give maps of 38, 19, 10, 5, 3 and 1. Here
conv5_3 is followed by pool5 (3x3, stride 1), fc6 (3x3, dilated by 6) and fc7 (1x1); with ``fc_channels: null`` the
coarsest map is used as it is (mmdetection's SSDNeck). torchvision's weights fit. With ``extra_block: separable`` the
extra levels are SSDLite's (:mod:`detfuse.fusion.lite`).
Fill: the authors' ``xavier`` of Caffe, by the fan-in alone, and zero biases; fc6 and fc7 too, since no weights of VGG's
linear layers are converted. torchvision's counts the fan-out as well.
Deviations: no dropout after fc6 and fc7, as in torchvision; any backbone with two levels or more serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor, nn

from detfuse.attention.inserts import Sites, output_inserts
from detfuse.errors import InputError
from detfuse.fill import fill_convolutions
from detfuse.fusion.lite import lite_extra
from detfuse.norms import L2Norm
from detfuse.ranges import PositiveFloat, PositiveInt, Range, checked
from detfuse.structures import FeatureSpec


@checked
class SSDExtras(nn.Module):
    """See the module's header.

    The finest map passes through :class:`~detfuse.norms.L2Norm`, those between it and the coarsest as they are. The
    nominal stride doubles with every extra level, also where a convolution without padding or stride makes the map
    smaller.

    Args:
        in_spec: what the backbone delivers, at least two levels.
        attention: what stands at the site ``output``; nothing is fused and nothing projected here.
        l2_norm_scale: start of the L2Norm on the finest map; None for no norm.
        fc_channels: width of fc6 and fc7 on the coarsest map; None for neither.
        fc_dilation: of fc6.
        extra_channels: width of each extra level; a 1x1 convolution to half of it comes before its 3x3.
        extra_strides: of the 3x3 convolution of each: 2 pads by one pixel and serves any size, 1 does not pad and takes
            two pixels off the map.
        extra_block: the two convolutions of an extra level with ReLU, or SSDLite's three with norm and ReLU6, which pad
            at every stride.

    Raises:
        ValueError: if the backbone gives one level only, or an argument is out of range.
    """

    graph = None

    def __init__(
        self,
        in_spec: FeatureSpec,
        attention: Sites | None = None,
        *,
        l2_norm_scale: PositiveFloat | None = 20.0,
        fc_channels: PositiveInt | None = 1024,
        fc_dilation: PositiveInt = 6,
        extra_channels: Sequence[Annotated[int, Range(at_least=2)]] = (512, 256, 256, 256),
        extra_strides: Sequence[Literal[1, 2]] = (2, 2, 1, 1),
        extra_block: Literal["conv", "separable"] = "conv",
    ) -> None:
        super().__init__()
        if len(in_spec) < 2:
            raise InputError(
                f"SSDExtras normalises the finest level and continues from the coarsest, so it needs two levels of the "
                f"backbone, but there is only stride {in_spec.strides[0]}: give backbone.levels=[3,4]"
            )
        if len(extra_channels) != len(extra_strides):
            raise InputError(
                f"SSDExtras: each extra level has one width and one stride; got extra_channels {list(extra_channels)} "
                f"and extra_strides {list(extra_strides)}"
            )
        self.in_spec = in_spec
        self.extra_strides = list(extra_strides)
        coarsest = in_spec.channels[-1] if fc_channels is None else fc_channels
        widths = [coarsest, *extra_channels]
        self.out_spec = FeatureSpec(
            (*in_spec.channels[:-1], *widths),
            (*in_spec.strides, *(in_spec.strides[-1] * 2 ** (i + 1) for i in range(len(extra_channels)))),
        )
        self.l2_norm = nn.Identity() if l2_norm_scale is None else L2Norm(in_spec.channels[0], l2_norm_scale)
        self.fc = nn.Identity() if fc_channels is None else _fc(in_spec.channels[-1], fc_channels, fc_dilation)
        self.extra_block = extra_block
        make = lite_extra if extra_block == "separable" else _extra
        self.extras = nn.ModuleList(
            make(before, after, stride)
            for before, after, stride in zip(widths, extra_channels, extra_strides, strict=False)
        )
        fill_convolutions(self.fc)
        if extra_block == "conv":
            fill_convolutions(self.extras)
        self.outputs = output_inserts(attention, self.out_spec, "neck ssd_extras")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C_i, H_i, W_i), as ``in_spec`` says, to maps as ``out_spec`` says.

        Raises:
            ValueError: if a map is too small for an extra level without padding.
        """
        maps = [self.l2_norm(features[0]), *features[1:-1], self.fc(features[-1])]
        for extra, stride in zip(self.extras, self.extra_strides, strict=True):
            height, width = maps[-1].shape[-2:]
            if self.extra_block == "conv" and stride == 1 and (height < 3 or width < 3):
                raise InputError(
                    f"SSDExtras: level {len(maps)} takes two pixels off a map of {height} x {width}, so nothing is "
                    "left. The published layout is for 300 x 300 pixels (data.transform.size=[300,300]); for other "
                    f"sizes halve at every level: neck.extra_strides={[2] * len(self.extras)}"
                )
            maps.append(extra(maps[-1]))
        return [output(x) for output, x in zip(self.outputs, maps, strict=True)]

    def describe(self) -> str:
        """Nothing: no level sees another."""
        return ""


def _fc(in_channels: int, channels: int, dilation: int) -> nn.Sequential:
    """pool5 with stride 1, then VGG's first two linear layers as convolutions (fc6 decimated, hence dilated)."""
    return nn.Sequential(
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(inplace=True),
    )


def _extra(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels // 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels // 2, out_channels, 3, stride=stride, padding=stride - 1),
        nn.ReLU(inplace=True),
    )
