"""Non-local block.

Title: Non-local Neural Networks (Wang, Girshick, Gupta, He), 2018
URL: https://arxiv.org/abs/1711.07971
Variant: theta, phi, g are 1x1 to C/2; f(x_i, x_j) is normalised over the key positions j by softmax (gaussian,
embedded gaussian) or by their number (dot product, concatenation); the weighted sum of g goes through a 1x1 back to
C and a batch norm whose gamma starts at 0, plus the input. With sub-sampling phi and g see the map after one 2x2
max-pool, theta does not. Weights N(0, .01), biases 0, as the official code. Gaussian has neither theta nor phi.
Deviations: no bias where it cannot matter (before the batch norm; in phi under a softmax, which cancels it): same
function. An odd last row or column is dropped by the pool, as everywhere, but a side of 1 stays. ``scale``
(1/sqrt(D) before the softmax) is not in the paper's formula, yet the official code's default. ``pool="projection"``
is mmcv's: max-pool *after* the 1x1, and max(Wx) is not W max(x). ``init`` changes nothing: the paper's
initialisation already is the identity.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from detfuse.attention.parts import pairwise
from detfuse.attention.parts.arguments import hidden_channels
from detfuse.attention.parts.gate import Init
from detfuse.errors import InputError
from detfuse.ranges import PositiveInt, checked

Mode = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
PoolPosition = Literal["input", "projection"]


@checked
class NonLocal(nn.Module):
    """Every position attends to every (pooled) position: (B, C, H, W) to (B, C, H, W), memory quadratic in HW.

    Args:
        channels: C.
        ratio: the inner width is C/ratio, rounded down, at least 1.
        mode: the pairwise function.
        sub_sample: whether keys and values are max-pooled 2x2, which quarters the matrix.
        pool: max-pool the ``input`` of phi and g (paper) or their ``projection`` (mmcv).
        scale: whether the logits of a softmax are divided by the square root of their width.
        init: accepted by every insert; here ``paper`` and ``identity`` are the same.

    Raises:
        ValueError: for an unknown choice, a ratio below 1, or ``scale`` in a mode without softmax.
    """

    def __init__(
        self,
        channels: PositiveInt,
        *,
        ratio: PositiveInt = 2,
        mode: Mode = "embedded_gaussian",
        sub_sample: bool = True,
        pool: PoolPosition = "input",
        scale: bool = False,
        init: Init = "paper",
    ) -> None:
        super().__init__()
        if scale and mode not in ("embedded_gaussian", "gaussian"):
            raise InputError(f"NonLocal: scale=true needs a softmax, mode={mode!r} divides by the number of positions")
        self.mode, self.sub_sample, self.pool = mode, sub_sample, pool
        inner = hidden_channels(channels, ratio)
        embedded = mode != "gaussian"
        self.logit_scale = (inner if embedded else channels) ** -0.5 if scale else None
        self.theta = nn.Conv2d(channels, inner, 1) if embedded else None
        self.phi = nn.Conv2d(channels, inner, 1, bias=mode != "embedded_gaussian") if embedded else None
        self.g = nn.Conv2d(channels, inner, 1)
        # The paper's w_f^T [theta, phi], split in two, so that no (B, 2D, HW, HW) tensor is made.
        self.score_theta = nn.Conv2d(inner, 1, 1, bias=False) if mode == "concatenation" else None
        self.score_phi = nn.Conv2d(inner, 1, 1, bias=False) if mode == "concatenation" else None
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        attended = pairwise.attend(self.weights(x), self._at_keys(x, self.g), (height, width))
        out: Tensor = x + self.norm(self.out(attended)).to(x.dtype)
        return out

    def weights(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, HW, M): what each query position (row) takes of each of the M key positions (column)."""
        query = x if self.theta is None else self.theta(x)
        key = self._at_keys(x, self.phi)
        if self.score_theta is not None and self.score_phi is not None:
            rows = pairwise.full_precision(self.score_theta(query)).flatten(2).transpose(1, 2)
            columns = pairwise.full_precision(self.score_phi(key)).flatten(2)
            return F.relu(rows + columns) / columns.shape[-1]
        if self.mode == "dot_product":
            return pairwise.similarity(query, pairwise.full_precision(key) / (key.shape[-2] * key.shape[-1]))
        if self.logit_scale is not None:
            query = query * self.logit_scale
        return pairwise.similarity(query, key).softmax(-1)

    def _at_keys(self, x: Tensor, projection: nn.Module | None) -> Tensor:
        """The projection of ``x`` (or ``x`` itself) at the key positions."""
        if self.sub_sample and (self.pool == "input" or projection is None):
            x = pairwise.max_pool(x)
        projected: Tensor = x if projection is None else projection(x)
        if self.sub_sample and self.pool == "projection" and projection is not None:
            projected = pairwise.max_pool(projected)
        return projected

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
        return pairwise.peak_bytes((height, width), key_size, batch, dtype_bytes, rectified=self.mode != "dot_product")
