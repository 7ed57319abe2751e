from __future__ import annotations

import ast
from pathlib import Path

from detfuse.files import run_files

NAMES = {str(name) for key, name in vars(run_files).items() if key.isupper()} | {"last.ckpt", "best.ckpt"}


def test_names_of_a_runs_files_are_typed_once(repository: Path) -> None:
    assert {"metrics.csv", "config.yaml", "log.txt"} <= NAMES
    typed = {
        f"{file.relative_to(repository)}:{node.lineno}: {node.value}"
        for file in (repository / "detfuse").rglob("*.py")
        if file != Path(run_files.__file__)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in NAMES
    }
    of_hub = ("detfuse/backbones/", "detfuse/weights/sources.py")  # torch.hub's folder has the same name
    assert {place for place in typed if not place.startswith(of_hub)} == set()
