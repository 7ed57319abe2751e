"""From a command line to runs: the check, Hydra, sweeps that survive their failures, and exit codes.

Exit codes: 0; 1 for what the user can put right, and for a sweep in which a run failed; 2 for a command line that
cannot be run; 70 for a bug of detfuse (as sysexits.h has it); 130 for a run that was interrupted.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from detfuse.cli.terminal import control_characters_shown
from detfuse.config import (
    COMPOSITION_ERRORS,
    CommandLine,
    Settings,
    check,
    conf_dir,
    explained_composition,
    help_text,
    left_open,
    read_command_line,
    replacements,
)
from detfuse.config.schema.overrides import place_of
from detfuse.errors import UserError, explained
from detfuse.runs.invocation import Invocation
from detfuse.runs.run_folder import rank
from detfuse.runs.threads import wait_gently
from detfuse.words import shortened

# Flags that Hydra answers by itself, whatever the configuration says.
_HYDRAS_OWN = {"--hydra-help", "--version", "--shell-completion", "-sc"}
_FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's: 1 shows the traceback of a user's mistake too
_TARGET = re.compile(r"'_target_': '([^']+)'")
_USER, _COMMAND_LINE, _BUG, _INTERRUPTED = 1, 2, 70, 130


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command. It is called without arguments: those are the process's.

    Attributes:
        settings: its top-level keys, and its name.
        purpose: what it does, in a sentence.
        examples: lines of its help; ``{command}`` stands for the program.
        run: does it, once for each composed configuration; what is slow to import is imported there.
    """

    settings: type[Settings]
    purpose: str
    examples: str
    run: Callable[[Invocation], None]

    def __call__(self) -> None:
        """Run it as the process's arguments say; does not return after a failure."""
        with control_characters_shown():
            self._call()

    def _call(self) -> None:
        wait_gently(os.environ)
        argv = sys.argv[1:]
        if _HYDRAS_OWN.intersection(argv):
            _hydra(self, lambda _: None)
            return
        line = read_command_line(argv, conf_dir())
        if {"--help", "-h"}.intersection(line.flags):
            print(self.help(line.config_dir))
            return
        if rank():
            warnings.simplefilter("ignore", UserWarning)  # the first process has the same to tell
        problems = check(argv, self.settings)
        if problems:
            count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
            if not rank():
                print(f"{count}:", *(f"  {shortened(problem)}" for problem in problems), sep="\n", file=sys.stderr)
            sys.exit(_COMMAND_LINE)
        directories = [conf_dir()]
        if line.config_dir is not None:
            directories.append(line.config_dir)
            sys.path.insert(0, str(line.config_dir.parent))  # so that private targets import
        sys.argv[1:] = _for_hydra(argv, line, self.settings)
        _run_all(self, directories, argv, line)

    def help(self, user: Path | None = None) -> str:
        """Its ``--help``, with the options of a folder given by ``--config-dir``."""
        return help_text(self.settings, self.purpose, self.examples, user)


@dataclass(frozen=True, kw_only=True)
class CommandFamily:
    """Commands that share a program, ``detfuse-<name> <command>``; called as a :class:`Command` is.

    Attributes:
        name: of the program.
        purpose: what they have in common, in a sentence.
        commands: its commands.
    """

    name: str
    purpose: str
    commands: tuple[Command, ...]

    def __call__(self) -> None:
        """Run the command that the first argument names."""
        commands = {command.settings.command: command for command in self.commands}
        chosen = commands.get(sys.argv[1]) if len(sys.argv) > 1 else None
        if chosen is not None:
            del sys.argv[1]
            chosen()
        elif {"--help", "-h"}.intersection(sys.argv[1:]):
            print(self.help())
        else:
            found = f"got {sys.argv[1]}" if len(sys.argv) > 1 else "got nothing"
            print(f"1 mistake:\n  the first argument must be {' or '.join(commands)}, {found}", file=sys.stderr)
            sys.exit(_COMMAND_LINE)

    def help(self) -> str:
        """Its commands, and what each is for."""
        lines = (f"  detfuse-{self.name} {each.settings.command:10} {each.purpose}" for each in self.commands)
        return "\n".join([self.purpose, "", *lines, "", "Each has its own --help."])


def _for_hydra(argv: list[str], line: CommandLine, settings: type[Settings]) -> list[str]:
    """A checked command line as Hydra takes it: the overrides, then the flags, which people and Lightning mix."""
    replaced = replacements(line, settings)
    overrides = [text for argument in argv if argument not in line.flags for text in replaced.get(argument, [argument])]
    # Hydra composes a sweep once more without its swept options. There a setting of a swept part need not exist, which
    # it would refuse; ``++`` adds it. That it exists in every run has been checked.
    # So is one of a part that the checkpoint has: that of this configuration need not have it.
    parts = tuple(f"{part}." for part in (*_swept(line), *left_open(line.choices, settings)))
    return [*(f"++{text}" if text.startswith(parts) else text for text in overrides), *line.flags]


def _swept(line: CommandLine) -> tuple[str, ...]:
    return tuple(place_of(choice.key) for choice in line.choices if len(choice.values) > 1)


def _run_all(command: Command, directories: list[Path], argv: list[str], line: CommandLine) -> None:
    failures: list[str] = []
    swept = _swept(line)

    def task(config: DictConfig) -> None:
        invocation = _invocation(config, directories, argv, swept)
        try:
            command.run(invocation)
        except KeyboardInterrupt as stop:
            print("interrupted", *stop.args, sep=": ", file=sys.stderr)
            sys.exit(_INTERRUPTED)
        except Exception as error:
            mistake = explained(error)
            if mistake is not None:
                _tell(mistake, error)
            else:
                _tell_bug(error, invocation)
            if not invocation.multirun:
                sys.exit(_USER if mistake is not None else _BUG)
            # A sweep survives its failures: whatever went wrong in one run, the next is another.
            reason = f"{mistake}" if mistake is not None else f"{type(error).__name__}: {error}"
            failures.append(shortened(f"{' '.join(invocation.typed)}: {reason}"))

    try:
        _hydra(command, task)
    except COMPOSITION_ERRORS as error:
        _tell(UserError(explained_composition(error)), error)
        sys.exit(_COMMAND_LINE)
    except OSError as error:  # Hydra's own folder, where one was named
        if (mistake := explained(error)) is None:
            raise
        _tell(mistake, error)
        sys.exit(_USER)
    if failures:
        print(f"{len(failures)} of the sweep's runs failed:", *(f"  {f}" for f in failures), sep="\n", file=sys.stderr)
        sys.exit(_USER)


def _hydra(command: Command, task: Callable[[DictConfig], None]) -> None:
    """Run Hydra's main; what it cannot compose or sweep is raised, not printed in its own words."""
    asked = os.environ.get(_FULL_ERROR)

    def as_asked(config: DictConfig) -> None:
        with _environment(_FULL_ERROR, asked):  # the run and its processes have what the user has set
            task(config)

    name = command.settings.command
    with _environment(_FULL_ERROR, "1"):
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(as_asked)()


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _invocation(config: DictConfig, directories: list[Path], argv: list[str], swept: tuple[str, ...]) -> Invocation:
    state = HydraConfig.get()
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    chosen = {str(mount): str(option) for mount, option in state.runtime.choices.items()}
    return Invocation(
        config={str(key): value for key, value in plain.items()},
        typed=[_as_typed(str(override), argv) for override in state.overrides.task],
        choices={mount: option for mount, option in chosen.items() if not mount.startswith("hydra/")},
        multirun=state.mode is not None and state.mode.name == "MULTIRUN",
        directories=directories,
        swept=swept,
    )


def _as_typed(override: str, argv: list[str]) -> str:
    """Without what was put before it for Hydra's sake."""
    plain = override.removeprefix("++")
    return plain if plain in argv else override


def _tell(mistake: UserError, error: Exception) -> None:
    if os.environ.get(_FULL_ERROR) == "1":
        traceback.print_exception(error)
    where = f" (rank {rank()})" if rank() else ""  # of several processes each may fail for a reason of its own
    print(f"error{where}: {shortened(str(mistake))}", file=sys.stderr)


def _tell_bug(error: Exception, invocation: Invocation) -> None:
    traceback.print_exception(error)
    own = sorted({t for t in _TARGET.findall(str(invocation.config)) if not t.startswith("detfuse.")})
    where = f"detfuse, or in your own {', '.join(own)}" if own else "detfuse"
    print(
        f"This is a bug in {where}, and no mistake in your settings: please report it to the authors, with the command "
        "and the lines above.",
        file=sys.stderr,
    )
