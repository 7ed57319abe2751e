"""What a command was called with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Invocation:
    """One call of a command, or one run of a sweep.

    Attributes:
        config: composed and resolved, plain containers.
        typed: the overrides of this call, as Hydra passes them on.
        choices: mount point of each group -> option.
        multirun: it is part of a sweep.
        directories: the shipped configuration and the user's.
        swept: places of the settings that have several values in the sweep.
    """

    config: dict[str, Any]
    typed: list[str]
    choices: dict[str, str]
    multirun: bool
    directories: list[Path]
    swept: tuple[str, ...] = ()
