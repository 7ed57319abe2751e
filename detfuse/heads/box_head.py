"""The layers of a second stage: from a pooled region to what its predictors read.

Start: Caffe2's ``MSRAFill`` of the convolutions and ``XavierFill`` of the fully connected layers, as in Detectron.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from detfuse.fill import fill_uniform
from detfuse.heads.tower import ConvTower, Norm


class BoxHead(nn.Module):
    """Pooled regions to vectors: convolutions, then fully connected layers with ReLU.

    Args:
        in_channels: width of the maps.
        size: of the pooled regions, in cells.
        num_convs: 3x3 convolutions, of the same width.
        norm: after each of them.
        num_fcs: fully connected layers.
        channels: their width.

    Attributes:
        out_channels: length of the vectors.
    """

    def __init__(self, in_channels: int, size: int, num_convs: int, norm: Norm, num_fcs: int, channels: int) -> None:
        super().__init__()
        self.convs = ConvTower(in_channels, in_channels, num_convs, norm)
        for layer in self.convs.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        widths = [in_channels * size**2, *[channels] * num_fcs]
        self.fcs = nn.Sequential()
        for wide, narrow in pairwise(widths):
            layer = nn.Linear(wide, narrow)
            fill_uniform(layer, wide)
            self.fcs.extend([layer, nn.ReLU(inplace=True)])
        self.out_channels = widths[-1]

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, C, size, size) to (R, out_channels)."""
        seen: Tensor = self.fcs(self.convs(pooled).flatten(1))
        return seen


def vector_predictor(in_channels: int, out_channels: int, std: float) -> nn.Linear:
    """The last layer of a second stage, which starts from N(0, std) and no bias (Fast R-CNN, 2015)."""
    layer = nn.Linear(in_channels, out_channels)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
