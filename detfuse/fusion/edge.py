"""What lies on the way of a map to a node, as one module: whatever is to happen to an edge can be hooked onto it."""

from __future__ import annotations

from torch import Tensor, nn

from detfuse.fusion.blocks import Style
from detfuse.fusion.guide import is_guided, with_guide
from detfuse.fusion.resample import check_direction
from detfuse.protocols import ResampleFactory, Size


class Edge(nn.Module):
    """Projection (1x1, norm), attention, resampling, and a norm again behind a resampler that convolves.

    Each may be absent; an edge without any hands its map on.

    Args:
        in_channels: width of the map.
        out_channels: width that the node takes.
        steps: levels to cross, upwards if positive.
        resample: what crosses them.
        project: whether a 1x1 convolution comes first, also where it changes no width.
        style: whose norm it is.

    Attributes:
        insert: attention on the projected map, or None; the neck puts it there.
        projected: width of the projected map.
        guided: whether ``forward`` needs the guide.

    Raises:
        InputError: if the resampler cannot cross levels in this direction, or cannot change the width as it must.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        steps: int,
        resample: ResampleFactory,
        *,
        project: bool,
        style: Style,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.projected = out_channels if project else in_channels
        self.project: nn.Module | None = None
        if project:
            convolution = nn.Conv2d(in_channels, out_channels, 1, bias=style.bias)
            self.project = nn.Sequential(convolution, style.make_norm(out_channels))
        self.insert: nn.Module | None = None
        self.resample = resample(self.projected, out_channels, abs(steps)) if steps else None
        self.norm: nn.Module | None = None
        if self.resample is not None:
            check_direction(self.resample, up=steps > 0)
            if any(True for _ in self.resample.parameters()) and not getattr(self.resample, "averages", False):
                self.norm = style.make_norm(out_channels)
        self.guided = is_guided(self.resample)

    def forward(self, x: Tensor, size: Size, guide: Tensor | None = None) -> Tensor:
        """A map (B, in_channels, H, W) as the node takes it.

        Args:
            x: the map.
            size: (height, width) of the node's grid.
            guide: (B, out_channels, *size), if ``guided``.
        """
        if self.project is not None:
            x = self.project(x)
        if self.insert is not None:
            x = self.insert(x)
        if self.resample is not None:
            x = with_guide(self.resample, guide, x, size)
        return x if self.norm is None else self.norm(x)
