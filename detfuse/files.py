"""Files that a reader never sees half written, and JSON that every reader understands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file at once: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON: no NaN, no Infinity.

    Raises:
        ValueError: for a number that is not finite; nothing is written.
    """
    write_text(path, json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1) + "\n")
