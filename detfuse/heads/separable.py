"""Towers and predictors of separable convolutions, shared by all levels but for their norms (EfficientDet, 2020).

The weights begin as N(0, 1 / fan-in), the biases as 0, as in EfficientDet's own code.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from detfuse.attention.inserts import Sites, make_insert


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution without bias, then a pointwise one.

    Args:
        in_channels: width of the map.
        out_channels: width of the result.
        bias: of the pointwise one.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        for layer in (self.depthwise, self.pointwise):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
        if self.pointwise.bias is not None:
            nn.init.zeros_(self.pointwise.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


def separable_predictor(in_channels: int, out_channels: int, probability: float = 0.5) -> SeparableConv:
    """The last layer of a branch, whose logits begin around this probability; .5 is a bias of 0."""
    layer = SeparableConv(in_channels, out_channels, bias=True)
    assert layer.pointwise.bias is not None
    nn.init.constant_(layer.pointwise.bias, math.log(probability / (1 - probability)))
    return layer


class SeparableLayer(nn.Module):
    """A separable convolution, the level's own batch norm, SiLU, and attention on the levels that have it.

    Args:
        channels: width of the maps.
        num_levels: that share the convolution.
        norm_eps: epsilon of the norms.
        norm_momentum: of their running statistics.
    """

    def __init__(self, channels: int, num_levels: int, norm_eps: float, norm_momentum: float) -> None:
        super().__init__()
        self.conv = SeparableConv(channels, channels, bias=False)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(channels, eps=norm_eps, momentum=norm_momentum) for _ in range(num_levels)
        )
        self.act = nn.SiLU(inplace=True)
        self.attention: nn.Module | None = None

    def forward(self, x: Tensor, level: int, *, attend: bool) -> Tensor:
        x = self.act(self.norms[level](self.conv(x)))
        return self.attention(x) if attend and self.attention is not None else x


class SeparableTower(nn.ModuleList):
    """Layers that all levels share but for their norms, since a level's statistics are its own.

    Args:
        channels: width of the maps.
        num_convs: how many layers; 0 passes the maps on as they are.
        num_levels: that read it.
        norm_eps: epsilon of the norms.
        norm_momentum: of their running statistics.
        attention: what stands after each SiLU (site ``head``), shared by the levels as the convolutions are.
        name: of the tower, to name its places.
    """

    def __init__(
        self,
        channels: int,
        num_convs: int,
        num_levels: int,
        norm_eps: float,
        norm_momentum: float,
        attention: Sites | None,
        name: str,
    ) -> None:
        layers = [SeparableLayer(channels, num_levels, norm_eps, norm_momentum) for _ in range(num_convs)]
        if attention:
            for i, layer in enumerate(layers):
                layer.attention = make_insert(attention, "head", f"{name}.{i}", None, channels)
        super().__init__(layers)

    def forward(self, x: Tensor, level: int, *, attend: bool) -> Tensor:
        """(B, C, H, W) to the same shape.

        Args:
            x: the map of one level.
            level: its position.
            attend: whether it has the attention, if there is any.
        """
        for layer in self:
            x = layer(x, level, attend=attend)
        return x
