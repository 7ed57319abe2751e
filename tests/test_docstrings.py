"""The examples in docstrings are what one gets."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import detfuse

ROOT = Path(detfuse.__file__).parent
WITH_EXAMPLES = [
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts)
    for file in sorted(ROOT.rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_an_example_is_what_one_gets(module: str) -> None:
    result = doctest.testmod(import_module(module))
    assert result.attempted
    assert not result.failed


def test_every_topology_has_one() -> None:
    topologies = {f"detfuse.necks.topologies.{file.stem}" for file in (ROOT / "necks" / "topologies").glob("[a-z]*.py")}
    assert topologies <= set(WITH_EXAMPLES)
