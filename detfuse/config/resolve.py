"""The configuration that a command line selects, resolved, without running the command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from detfuse.config.compose import COMPOSITION_ERRORS, Composer, explained_composition
from detfuse.config.location import conf_dir
from detfuse.config.overrides import read_command_line
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


def resolve(argv: list[str], command: str) -> Resolved:
    """What a command would run with; :func:`detfuse.config.check` comes first, this does not explain mistakes.

    Args:
        argv: arguments of the command, as in ``sys.argv[1:]``.
        command: the primary configuration, such as ``train``.

    Raises:
        InputError: for what the check lets pass and Hydra does not.
    """
    line = read_command_line(argv, conf_dir())
    composer = Composer(conf_dir(), line.config_dir, command)
    try:
        composed = composer.compose([choice.typed for choice in line.choices])
        config = OmegaConf.to_container(composed.config, resolve=True)
    except COMPOSITION_ERRORS as error:
        raise InputError(f"{' '.join(argv)}: {explained_composition(error)}") from error
    assert isinstance(config, dict)
    choices = {str(mount): str(option) for mount, option in composed.choices.items()}
    return Resolved({str(key): value for key, value in config.items()}, choices)
