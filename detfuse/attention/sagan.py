"""Self-attention of SAGAN.

Title: Self-Attention Generative Adversarial Networks (Zhang, Goodfellow, Metaxas, Odena), 2019
URL: https://arxiv.org/abs/1805.08318
Variant: query and key are 1x1 to C/8 without bias; softmax over the keys, so that every row sums to 1; the weighted
sum of the values goes through a 1x1 back to C and is added, times a scalar gamma that starts at 0.
``variant="official"`` (the authors' TensorFlow code): values of width C/2. ``variant="paper"`` (the text): values
of width C/8. Keys and values are max-pooled 2x2 after their 1x1. Xavier initialisation.
Deviations: the paper's text does not mention the pooling, the code has it: ``sub_sample=False`` is the text to the
letter. Spectral norm, in the paper on every layer of a GAN, is an option and off by default. A side of 1 is not
pooled away. ``init`` changes nothing: the paper's initialisation already is the identity.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from detfuse.attention.parts import pairwise
from detfuse.attention.parts.arguments import hidden_channels
from detfuse.attention.parts.gate import Init
from detfuse.ranges import PositiveInt, checked

Variant = Literal["official", "paper"]


@checked
class SAGAN(nn.Module):
    """Every position attends to every (pooled) position: (B, C, H, W) to (B, C, H, W), memory quadratic in HW.

    Args:
        channels: C.
        variant: width of the values: C/2 (``official``) or C/ratio (``paper``).
        ratio: queries and keys have C/ratio channels, rounded down, at least 1.
        sub_sample: whether keys and values are max-pooled 2x2, which quarters the matrix.
        spectral_norm: whether the four 1x1 are divided by their largest singular value.
        init: accepted by every insert; here ``paper`` and ``identity`` are the same.

    Raises:
        ValueError: for an unknown choice or a ratio below 1.
    """

    def __init__(
        self,
        channels: PositiveInt,
        *,
        variant: Variant = "official",
        ratio: PositiveInt = 8,
        sub_sample: bool = True,
        spectral_norm: bool = False,
        init: Init = "paper",
    ) -> None:
        super().__init__()
        inner = hidden_channels(channels, ratio)
        value = hidden_channels(channels, 2) if variant == "official" else inner
        self.sub_sample = sub_sample
        self.query = _conv1x1(channels, inner, spectral_norm)
        self.key = _conv1x1(channels, inner, spectral_norm)
        self.value = _conv1x1(channels, value, spectral_norm)
        self.out = _conv1x1(value, channels, spectral_norm)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        attended = pairwise.attend(self.weights(x), self._at_keys(self.value(x)), (height, width))
        out: Tensor = x + (self.gamma * self.out(attended)).to(x.dtype)
        return out

    def learnt(self) -> dict[str, float]:
        """How much attention is added, see :class:`detfuse.protocols.Learnt`."""
        return {"gamma": self.gamma.item()}

    def weights(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, HW, M): what each query position (row) takes of each of the M key positions (column)."""
        return pairwise.similarity(self.query(x), self._at_keys(self.key(x))).softmax(-1)

    def _at_keys(self, projected: Tensor) -> Tensor:
        return pairwise.max_pool(projected) if self.sub_sample else projected

    def peak_bytes(self, height: int, width: int, batch: int, dtype_bytes: int = 4) -> int:
        """Bytes of the (B, HW, M) matrices that live together at the worst moment of a training step of this insert.

        The sum over several inserts is an upper bound: their worst moments come one after the other.

        Args:
            height: of the map it is inserted on, in positions.
            width: likewise.
            batch: images per device.
            dtype_bytes: size of the type that convolutions compute in: 4, or 2 under autocast.

        Raises:
            ValueError: if a size or the batch is less than 1.
        """
        key_size = pairwise.pooled((height, width)) if self.sub_sample else (height, width)
        return pairwise.peak_bytes((height, width), key_size, batch, dtype_bytes)


def _conv1x1(in_channels: int, out_channels: int, spectral_norm: bool) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    nn.init.xavier_uniform_(conv.weight)
    return parametrizations.spectral_norm(conv) if spectral_norm else conv
