"""The laws of the house: floors between the rooms, lint. (Types are checked by .ci/run: mypy takes its time.)"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement


@pytest.mark.parametrize("command", [["lint-imports"], ["ruff", "check", "."], ["ruff", "format", "--check", "."]])
def test_the_house_is_in_order(command: list[str], repository: Path) -> None:
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


HEAVY = ("hydra", "lightning_fabric", "omegaconf", "pytorch_lightning")
IMPORT_ALL = f"""
import importlib, pkgutil, sys
for room in sys.argv[1:]:
    module = importlib.import_module(room)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), room + "."):
        importlib.import_module(found.name)
    heavy = [name for name in {HEAVY} if name in sys.modules]
    assert not heavy, f"{{room}} imports {{heavy}}"
"""


def contracts(repository: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    return found


def plain_rooms(repository: Path) -> list[str]:
    """Every room below training, and export beside it."""
    floors = next(contract["layers"] for contract in contracts(repository) if contract["type"] == "layers")
    rooms = [[room.strip() for room in floor.split("|")] for floor in floors]
    training = next(i for i, floor in enumerate(rooms) if "detfuse.training" in floor)
    return ["detfuse.export", *(room for floor in rooms[training + 1 :] for room in floor)]


def test_the_second_law_names_every_room_that_it_is_about(repository: Path) -> None:
    (law,) = (
        contract for contract in contracts(repository) if "pytorch_lightning" in contract.get("forbidden_modules", [])
    )
    assert set(law["source_modules"]) == set(plain_rooms(repository))
    assert set(law["forbidden_modules"]) == set(HEAVY)


def test_what_is_below_training_is_imported_without_lightning_and_hydra(repository: Path) -> None:
    """In fact, too: a library may import them, and a name may be imported while the program runs."""
    program = [sys.executable, "-c", IMPORT_ALL, *plain_rooms(repository)]
    done = subprocess.run(program, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


PRIVATE = {
    "torch": {
        "torch._subclasses.fake_tensor": "shapes and costs are found without memory",
        "torch.utils._python_dispatch": "weights start from their name: what they are drawn by is watched",
        "torch.utils._pytree": "likewise",
        "torch._dynamo.config": "what an export's tracer keeps of every operator is not asked for again",
        "torch.fx.experimental._config": "an exported file takes maps of a single row",
        "program._guards_code": "likewise",
    },
    "pytorch-lightning": {
        "pytorch_lightning.loops.evaluation_loop._EvaluationLoop": "all processes know of each batch of an evaluation",
        "pytorch_lightning.loops.fit_loop._FitLoop": "an epoch goes on at the batch where it was stopped",
        "pytorch_lightning.strategies.launchers.subprocess_script._SubprocessScriptLauncher": "a dead process is told",
        "lightning_fabric.utilities.distributed._set_num_threads_if_needed": "likewise, in place of Lightning's start",
        "fit_loop._should_accumulate": "a checkpoint within an epoch has no gradients",
        "val_loop._has_run": "a line of progress tells the last metrics",
    },
    "hydra-core": {"hydra._internal": "the command line is read before Hydra starts"},
    "timm": {"block.se": "attention stands at the end of a residual branch"},
    "hotcoco": {"hotcoco": "young, and the default engine: the numbers of a next major version are to be looked at"},
}
"""Package -> what of it is no public promise, and what for: each has an upper bound, to be raised when it was tried."""


def private_imports(file: Path) -> Iterator[str]:
    """Dotted names with a private part that a file imports from other packages."""
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] != "detfuse" and any(part.startswith("_") and not part.startswith("__") for part in parts):
                yield name


def test_what_is_not_promised_has_an_upper_bound(repository: Path) -> None:
    listed = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = {need.name: need.specifier for need in map(Requirement, listed)}
    for package in PRIVATE:
        assert any(bound.operator in ("<", "<=", "==") for bound in bounds[package]), package


def test_what_is_not_promised_is_named(repository: Path) -> None:
    files = [file for room in ("detfuse", "scripts") for file in (repository / room).rglob("*.py")]
    named = [part for parts in PRIVATE.values() for part in parts]
    found = {name for file in files for name in private_imports(file)}
    assert [name for name in sorted(found) if not name.startswith(tuple(named))] == []
    text = "\n".join(file.read_text() for file in files)
    assert [part for part in named if part not in text and not any(name.startswith(part) for name in found)] == []


def test_every_promise_to_those_who_open_files_of_others_has_its_test(repository: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (repository / ".github/SECURITY.md").read_text())
    assert len(named) > 20
    assert [(file, name) for file, name in named if f"def {name}(" not in (repository / file).read_text()] == []


def test_one_word_names_one_thing(repository: Path) -> None:
    """A class's name says what it is wherever it is imported; private ones may share one."""
    places: dict[str, list[str]] = {}
    for file in sorted((repository / "detfuse").rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(file.relative_to(repository)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
