"""SAPA: up-sampling by how similar a pixel of the finer map is to each of the pixels around it in the coarser one.

Paper: SAPA: Similarity-Aware Point Affiliation for Feature Upsampling, NeurIPS 2022, https://arxiv.org/abs/2209.12866
Code: https://github.com/poppinace/sapa (MIT)
Variant: SAPA-B, of which both maps pass a layer norm and a linear embedding before their inner product is taken. The
finer map is the guide: the map of the target level with which the result will be fused (in FPN the lateral one).
Start: the authors', weights from a normal distribution of deviation 0.02, biases 0. The neck's fill does not apply.
Deviations: none for a target of exactly ``2**steps`` times the map's size. At any other size too, pixel (i, j) of the
target belongs to pixel (i // 2**steps, j // 2**steps) of the map, or where a backbone rounds sizes down, to the last.
As in the authors' kernel, a window that reaches over the border finds pixels of similarity 0 and value 0 there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detfuse.fusion.grid import Up, same_width
from detfuse.norms import ChannelNorm
from detfuse.ranges import OddInt, PositiveInt, checked
from detfuse.structures import Size

_STD = 0.02  # of the weights at the start


@checked
class SAPA(Up):
    """See the module's header.

    Args:
        in_channels: width of the map, which stays.
        out_channels: the same, and that of the guide.
        steps: levels to cross; all at once, by ``2**steps``.
        kernel_size: side of the window, in pixels of the coarser map.
        embedding: width in which similarity is measured.

    Raises:
        InputError: if the width changes.
    """

    guided = True
    own_start = True
    averages = True

    def __init__(
        self, in_channels: int, out_channels: int, steps: int, *, kernel_size: OddInt = 5, embedding: PositiveInt = 64
    ) -> None:
        super().__init__()
        same_width("sapa", in_channels, out_channels)
        self.scale = 2**steps
        self.kernel_size = kernel_size
        self.query = _embedding(out_channels, embedding)
        self.key = _embedding(in_channels, embedding)

    def forward(self, x: Tensor, size: Size, guide: Tensor) -> Tensor:
        scale = self.scale
        rows, columns = blocks = tuple(-(-side // scale) for side in size)
        # whole blocks of scale x scale targets: what is added here is cut off again at the end
        query = F.pad(self.query(guide), (0, columns * scale - size[1], 0, rows * scale - size[0]))
        query = torch.unflatten(F.pixel_unshuffle(query, scale), 1, (-1, scale**2))
        similarity = torch.einsum("bdthw,bdkhw->bkthw", query, self._windows(self.key(x), blocks))
        shares = similarity.softmax(dim=1)  # of each pixel of the window, for each target of the block
        fused = torch.einsum("bkthw,bckhw->bcthw", shares, self._windows(x, blocks))
        made = F.pixel_shuffle(fused.flatten(1, 2), scale)
        return made[..., : size[0], : size[1]].to(x.dtype)

    def _windows(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """The pixels around each pixel, zeros beyond the border: (B, C, kernel_size^2, *size).

        Where a backbone rounds sizes down, the map lacks rows or columns; then the last ones are repeated.
        """
        height, width = x.shape[-2:]
        padded = F.pad(x, [self.kernel_size // 2] * 4)
        shifts = range(self.kernel_size)
        found = [padded[..., i : i + height, j : j + width] for i in shifts for j in shifts]
        lacking = (0, size[1] - width, 0, size[0] - height)
        if any(lacking):
            found = [F.pad(shifted, lacking, mode="replicate") for shifted in found]
        return torch.stack(found, dim=2)


def _embedding(channels: int, embedding: int) -> nn.Sequential:
    linear = nn.Conv2d(channels, embedding, 1)
    nn.init.normal_(linear.weight, std=_STD)
    assert linear.bias is not None
    nn.init.zeros_(linear.bias)
    return nn.Sequential(ChannelNorm(channels), linear)
