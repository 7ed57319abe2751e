"""What a command was called with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detfuse.files.plain import read_json
from detfuse.files.records import from_plain, loaded
from detfuse.files.run_files import COMMAND


@dataclass(frozen=True)
class Invocation:
    """One call of a command, or one run of a sweep.

    Attributes:
        config: composed and resolved, plain containers.
        typed: the overrides of this call, as Hydra passes them on.
        choices: mount point of each group -> option.
        multirun: it is part of a sweep.
        directories: the shipped configuration and the user's.
    """

    config: dict[str, Any]
    typed: list[str]
    choices: dict[str, str]
    multirun: bool
    directories: list[Path]


@dataclass(frozen=True)
class Typed:
    """What a run folder keeps of the command that made it.

    Attributes:
        choices: mount point of each group -> option.
        overrides: as typed.
    """

    choices: Mapping[str, str]
    overrides: tuple[str, ...] = ()


def read_typed(folder: Path) -> Typed | None:
    """The ``command.json`` of a run folder; None if it has none.

    Raises:
        StorageError: if it was cut or edited.
    """
    file = folder / COMMAND
    return from_plain(Typed, loaded(file, read_json), str(file)) if file.is_file() else None
