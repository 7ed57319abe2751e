"""How a gate is applied, and how an insert that gates starts as the identity.

A sigmoid gate is about one half at initialisation, so a gate inserted into a *pretrained* network halves its
features: such a run measures damage plus attention. Inserts that gate therefore offer ``init``:

* ``paper``: ``x * gate``, the published form; no parameter is added.
* ``identity``: ``x * (1 + alpha * (gate - 1))`` with one learnable scalar ``alpha`` per gate that starts at 0. The
  factor is then exactly 1 and the output is the input bit for bit; ``alpha = 1`` is the published form, so nothing
  is lost. At first only ``alpha`` receives a gradient; the weights behind the gate do as soon as it has left 0.

Inserts that *add* with a zero-initialised last layer (Non-local, SAGAN, GC with ``fusion="add"``) start as the
identity by their papers and look the same under both.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from detfuse.ranges import checked

Init = Literal["paper", "identity"]
"""Whether an insert starts as published or with an output that equals its input."""


@checked
class Gate(nn.Module):
    """Multiplies a map by a gate in 0..1: ``forward(x, gate)`` for x (B, C, H, W) and a gate that broadcasts to it.

    The result has the type of ``x``, whatever autocast computed the gate in.

    Args:
        init: see the module's docstring.

    Raises:
        ValueError: if ``init`` is neither ``paper`` nor ``identity``.
    """

    def __init__(self, *, init: Init = "paper") -> None:
        super().__init__()
        self.init = init
        self.alpha = nn.Parameter(torch.zeros(1)) if init == "identity" else None

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        factor = gate if self.alpha is None else 1 + self.alpha * (gate - 1)
        return x * factor.to(x.dtype)

    def learnt(self) -> dict[str, float]:
        """How far the gate has opened, see :class:`detfuse.protocols.Learnt`; nothing in the published form."""
        return {} if self.alpha is None else {"alpha": self.alpha.item()}

    def extra_repr(self) -> str:
        """The initialisation, for the model summary."""
        return f"init={self.init}"
