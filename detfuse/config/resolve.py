"""The configuration that a command line selects, resolved, without running the command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from detfuse.config.location import conf_dir
from detfuse.config.mistakes import schema_of
from detfuse.config.schema.check import apply
from detfuse.config.schema.compose import COMPOSITION_ERRORS, composer_of, explained_composition
from detfuse.config.schema.keys import Keys
from detfuse.config.schema.overrides import read_command_line
from detfuse.config.settings import Settings
from detfuse.errors import InputError


@dataclass(frozen=True)
class Resolved:
    """A resolved configuration.

    Attributes:
        config: plain containers.
        choices: mount point of each group -> option.
    """

    config: dict[str, Any]
    choices: dict[str, str]


def resolve(argv: list[str], settings: type[Settings]) -> Resolved:
    """What a command would run with; :func:`detfuse.config.check` comes first and tells all mistakes, this the first.

    Args:
        argv: arguments of the command, as in ``sys.argv[1:]``; of a sweep, its first run.
        settings: of the command.

    Raises:
        InputError: for a command line that cannot be composed.
    """
    line = read_command_line(argv, conf_dir())
    composer = composer_of(conf_dir(), line.config_dir, settings.command)
    groups, typed = composer.parted(line.choices)
    wrong = list(line.problems)
    try:
        composed = composer.compose([choice.single() for choice in groups])
        keys = Keys(composed, schema_of(settings, composer.directories))
        wrong += [problem for choice in typed if (problem := apply(choice, keys)) is not None]
        if wrong:
            raise InputError(f"{' '.join(argv)}: {wrong[0]}")
        config = OmegaConf.to_container(composed.config, resolve=True)
    except COMPOSITION_ERRORS as error:
        raise InputError(f"{' '.join(argv)}: {explained_composition(error)}") from error
    assert isinstance(config, dict)
    choices = {str(mount): str(option) for mount, option in composed.choices.items()}
    return Resolved({str(key): value for key, value in config.items()}, choices)
