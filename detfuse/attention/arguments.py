"""What the attention inserts check about their arguments before they allocate a weight."""

from __future__ import annotations

from collections.abc import Iterable

from detfuse.errors import InputError


def require_choice(owner: str, argument: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is none of ``choices``.

    Raises:
        ValueError: naming the insert, its argument, the value and the choices.
    """
    allowed = tuple(choices)
    if value not in allowed:
        raise InputError(f"{owner}: {argument}={value!r} is none of {', '.join(allowed)}")


def hidden_channels(owner: str, channels: int, ratio: int, *, minimum: int = 1) -> int:
    """The paper's hidden width C/r, rounded down (never to a multiple of 8), at least ``minimum``.

    Raises:
        ValueError: if ``channels`` or ``ratio`` is less than 1.
    """
    if channels < 1:
        raise InputError(f"{owner}: channels={channels} must be at least 1, the width of the map it is inserted on")
    if ratio < 1:
        raise InputError(f"{owner}: ratio={ratio} must be at least 1, the hidden width is channels / ratio")
    return max(minimum, channels // ratio)
