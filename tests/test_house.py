"""The laws of the house: floors between the rooms, lint. (Types are checked by .ci/run: mypy takes its time.)"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest


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
