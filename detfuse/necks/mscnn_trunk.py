"""What MS-CNN puts behind its backbone: conv6 on the pooled coarsest map, and that pooled once more; late fusion.

Paper: A Unified Multi-scale Deep Convolutional Neural Network for Fast Object Detection, 2016,
https://arxiv.org/abs/1607.07155
Variant: the trunk of the published nets on VGG-16: conv4_3, conv5_3, conv6 (pool5, then 3x3, 512, ReLU) and pool6, at
strides 8, 16, 32, 64. The buffer on conv4_3 belongs to the head. Poolings are 2 x 2 and round odd sizes up, as Caffe's.
Start: conv6 Gaussian, .01, and no bias, as the authors' code, https://github.com/zhaoweicai/mscnn.
Deviations: any backbone with any levels serves.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from detfuse.attention.inserts import Sites, output_inserts
from detfuse.ranges import PositiveInt, checked
from detfuse.structures import FeatureSpec


@checked
class MSCNNTrunk(nn.Module):
    """See the module's header.

    Args:
        in_spec: what the backbone delivers; its maps are handed on as they are, and two levels follow.
        attention: what stands at the site ``output``; nothing is fused and nothing projected here.
        conv_channels: width of conv6, and so of the two coarsest levels.

    Raises:
        ValueError: if an argument is out of range.
    """

    graph = None

    def __init__(
        self, in_spec: FeatureSpec, attention: Sites | None = None, *, conv_channels: PositiveInt = 512
    ) -> None:
        super().__init__()
        self.in_spec = in_spec
        top = in_spec.strides[-1]
        self.out_spec = FeatureSpec(
            (*in_spec.channels, conv_channels, conv_channels), (*in_spec.strides, 2 * top, 4 * top)
        )
        self.pool = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.conv6 = nn.Conv2d(in_spec.channels[-1], conv_channels, 3, padding=1)
        nn.init.normal_(self.conv6.weight, std=0.01)
        assert self.conv6.bias is not None
        nn.init.zeros_(self.conv6.bias)
        self.outputs = output_inserts(attention, self.out_spec, "neck mscnn_trunk")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C_i, H_i, W_i), as ``in_spec`` says, to maps as ``out_spec`` says."""
        conv6 = self.conv6(self.pool(features[-1])).relu()
        maps = [*features, conv6, self.pool(conv6)]
        return [output(x) for output, x in zip(self.outputs, maps, strict=True)]

    def describe(self) -> str:
        """Nothing: no level sees another."""
        return ""
