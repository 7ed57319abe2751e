"""What the attention inserts make of their arguments."""

from __future__ import annotations


def hidden_channels(channels: int, ratio: int, *, minimum: int = 1) -> int:
    """The paper's hidden width C/r, rounded down (never to a multiple of 8), at least ``minimum``."""
    return max(minimum, channels // ratio)
