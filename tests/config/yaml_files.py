"""Folders of YAML files, written from their texts."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent


def write_yaml(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n") + "\n")
    return folder
