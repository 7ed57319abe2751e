"""What a command prints holds names that others chose: of classes, files, arms. A terminal must not obey them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from detfuse.words import printable


class _Shown:
    """A stream that shows control characters, so that a name cannot move the cursor or hide a line."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # what rich asks for, whose bars do move the cursor

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextmanager
def control_characters_shown() -> Iterator[None]:
    """Within the context, whatever is printed by whomever, warnings and tracebacks too, is text and nothing else."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _Shown(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
