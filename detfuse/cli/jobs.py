"""From a command line to jobs: the check, Hydra, sweeps that survive their failures, and exit codes.

Exit codes: 0, 1 for a job that failed, 2 for a command line that cannot be run.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from detfuse.config import CommandLine, check, conf_dir, help_text, read_command_line

# Flags that Hydra answers by itself, whatever the configuration says.
_HYDRAS_OWN = {"--hydra-help", "--version", "--shell-completion", "-sc"}


class UserError(Exception):
    """Something that the user can put right: told as one message, without a traceback."""


@dataclass(frozen=True)
class Invocation:
    """One job: a command, or one run of a sweep.

    Attributes:
        config: composed and resolved, plain containers.
        typed: the overrides of this job, as Hydra passes them on.
        choices: mount point of each group -> option.
        multirun: it is part of a sweep.
        directories: the shipped configuration and the user's.
    """

    config: dict[str, Any]
    typed: list[str]
    choices: dict[str, str]
    multirun: bool
    directories: list[Path]


Job = Callable[[Invocation], None]


def launch(command: str, job: Job) -> None:
    """Run a command with the arguments of this process; does not return after a failure.

    Args:
        command: name of the primary configuration.
        job: what to do with each composed configuration.
    """
    argv = sys.argv[1:]
    if _HYDRAS_OWN.intersection(argv):
        _hydra(command, lambda _: None)
        return
    line = read_command_line(argv, conf_dir())
    if {"--help", "-h"}.intersection(line.flags):
        print(help_text(command, line.config_dir))
        return
    problems = check(argv, command)
    if problems:
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        print(f"{count}:", *(f"  {problem}" for problem in problems), sep="\n", file=sys.stderr)
        sys.exit(2)
    directories = [conf_dir()]
    if line.config_dir is not None:
        directories.append(line.config_dir)
        sys.path.insert(0, str(line.config_dir.parent))  # so that private targets import
    # Hydra's parser wants overrides and flags apart; people, and Lightning's child processes, mix them.
    overrides = _forced_below_swept([argument for argument in argv if argument not in line.flags], line)
    sys.argv[1:] = [*overrides, *line.flags]
    _run_jobs(command, job, directories)


def _forced_below_swept(overrides: list[str], line: CommandLine) -> list[str]:
    """Overrides with ``++`` before settings of a part that is swept.

    Hydra composes a sweep once without its swept options, where such a setting need not exist yet; that it does in
    every run has been checked.
    """
    places = [choice.key.partition("@")[2] or choice.key for choice in line.choices if len(choice.values) > 1]
    below = tuple(f"{place}." for place in places)
    return [f"++{override}" if override.startswith(below) else override for override in overrides]


def _run_jobs(command: str, job: Job, directories: list[Path]) -> None:
    failures: list[str] = []

    def task(config: DictConfig) -> None:
        invocation = _invocation(config, directories)
        try:
            job(invocation)
        except UserError as error:
            _tell(error)
            if not invocation.multirun:
                sys.exit(1)
            failures.append(f"{' '.join(invocation.typed)}: {error}")
        except Exception as error:
            # A sweep survives its failures: whatever went wrong in one run, the next is another.
            if not invocation.multirun:
                raise
            traceback.print_exc()
            failures.append(f"{' '.join(invocation.typed)}: {type(error).__name__}: {error}")

    _hydra(command, task)
    if failures:
        print(f"{len(failures)} of the sweep's runs failed:", *(f"  {f}" for f in failures), sep="\n", file=sys.stderr)
        sys.exit(1)


def _hydra(command: str, task: Callable[[DictConfig], None]) -> None:
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)(task)()


def _invocation(config: DictConfig, directories: list[Path]) -> Invocation:
    state = HydraConfig.get()
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    chosen = {str(mount): str(option) for mount, option in state.runtime.choices.items()}
    return Invocation(
        config={str(key): value for key, value in plain.items()},
        typed=[str(override) for override in state.overrides.task],
        choices={mount: option for mount, option in chosen.items() if not mount.startswith("hydra/")},
        multirun=state.mode is not None and state.mode.name == "MULTIRUN",
        directories=directories,
    )


def _tell(error: UserError) -> None:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)


@contextmanager
def told_plainly() -> Iterator[None]:
    """While parts are built and data is read, errors are about the user's choices: tell them without a traceback.

    ``HYDRA_FULL_ERROR=1`` shows the traceback.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        # A KeyError's text is its key in quotes; the message is its argument.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise UserError(f"{message}" or type(error).__name__) from error
