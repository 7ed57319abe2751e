"""Attention inserts: what is re-weighted, wherever the config puts it.

Every insert is an ``AttentionFactory`` once its configured arguments are bound: ``SE(channels)`` maps (B, C, H, W)
to (B, C, H, W) of the same type and size. Those whose memory is quadratic in the map have ``peak_bytes(height,
width, batch, dtype_bytes)``.
"""

from torch import nn

from detfuse.attention.cbam import CBAM
from detfuse.attention.eca import ECA
from detfuse.attention.gc import GC
from detfuse.attention.non_local import NonLocal
from detfuse.attention.sagan import SAGAN
from detfuse.attention.se import SE

__all__ = ["CBAM", "ECA", "GC", "SAGAN", "SE", "NonLocal", "none"]


def none(channels: int) -> nn.Identity:
    """No attention: the identity, which adds no state-dict keys, so that a baseline's checkpoint fits every variant."""
    return nn.Identity()
