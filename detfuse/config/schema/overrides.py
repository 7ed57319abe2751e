"""The command line: every override parsed by itself, so that one mistake does not hide the next."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from detfuse.config.schema.groups import collisions, group_options


@dataclass(frozen=True)
class Choice:
    """One override as typed, with the settings that it stands for (several in a sweep).

    Attributes:
        typed: the whole argument.
        sign: ``""``, ``"+"``, ``"++"`` or ``"~"``.
        key: what stands left of ``=`` without the sign, such as ``part.key`` or ``group@place``.
        values: plain values, one unless swept.
        texts: the values as one would type them.
    """

    typed: str
    sign: str
    key: str
    values: tuple[Any, ...]
    texts: tuple[str, ...]

    @property
    def group(self) -> str:
        """The key without its mount point."""
        return self.key.split("@")[0]

    def at(self, index: int) -> Choice:
        """The override with one of its values."""
        return replace(self, values=(self.values[index],), texts=(self.texts[index],))

    def single(self) -> str:
        """The override with its first value, as Hydra takes it."""
        return self.typed if self.sign == "~" else f"{self.sign}{self.key}={self.texts[0]}"


@dataclass
class CommandLine:
    """What was typed.

    Attributes:
        choices: overrides that parse.
        passed_on: overrides of Hydra's own settings (``hydra.*``), not checked here.
        multirun: ``-m`` was given.
        config_dir: the user's configuration folder.
        problems: what is wrong already.
        flags: Hydra's flags as typed.
    """

    choices: list[Choice] = field(default_factory=list)
    passed_on: list[str] = field(default_factory=list)
    multirun: bool = False
    config_dir: Path | None = None
    problems: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


def read_command_line(argv: list[str], shipped: Path) -> CommandLine:
    """Parse the arguments of a command (without its name).

    Args:
        argv: as in ``sys.argv[1:]``; flags and overrides may stand in any order.
        shipped: the shipped configuration, which the user's may not shadow.
    """
    parser = get_args_parser()
    parser.exit_on_error, parser.allow_abbrev = False, False
    line = CommandLine()
    try:
        known, rest = parser.parse_known_intermixed_args(argv)
    except ArgumentError as error:  # a flag without its value
        line.problems.append(f"{error.argument_name}: {error.message}")
        return line
    line.problems += [f"{flag}: there is no such flag; settings are written key=value, see --help" for flag in rest]
    overrides = list(known.overrides or [])
    line.flags = _without(argv, [*overrides, *rest])
    line.multirun = bool(known.multirun)
    line.problems += _refused_flags(known)
    if known.config_dir is not None:
        _take_config_dir(Path(known.config_dir), shipped, line)
    groups = group_options([shipped, line.config_dir] if line.config_dir else [shipped])
    for typed in overrides:
        _take_override(typed, line, groups)
    return line


def _refused_flags(known: Any) -> list[str]:
    """Flags of Hydra that would run something else than the command, or that do not go together."""
    problems = [
        f"--{name.replace('_', '-')}: the command says what is run; settings of your own go into an experiment"
        for name in ("config_name", "config_path", "experimental_rerun")
        if getattr(known, name) is not None
    ]
    if known.resolve and not known.cfg:
        problems.append("--resolve: add --cfg job, which shows the configuration")
    modes = {"--run": known.run, "-m": known.multirun, "--cfg": known.cfg, "--info": known.info}
    typed = [mode for mode, value in modes.items() if value]
    if len(typed) > 1:
        problems.append(f"{' and '.join(typed)}: give one of them")
    return problems


def _without(argv: list[str], others: list[str]) -> list[str]:
    remaining = list(others)
    flags = []
    for argument in argv:
        if argument in remaining:
            remaining.remove(argument)
        else:
            flags.append(argument)
    return flags


def _take_config_dir(directory: Path, shipped: Path, line: CommandLine) -> None:
    if not directory.is_dir():
        line.problems.append(f"--config-dir {directory}: there is no such folder")
        return
    line.config_dir = directory.resolve()
    for name in collisions(shipped, line.config_dir):
        line.problems.append(
            f"--config-dir {directory}: {name} has the name of a shipped file, which would win; give it another name"
        )


def _take_override(typed: str, line: CommandLine, groups: dict[str, list[str]]) -> None:
    try:
        override = OverridesParser.create().parse_override(typed)
    except (HydraException, ValueError, RecursionError) as error:  # a number of thousands of digits, brackets as deep
        line.problems.append(f"{typed:.200}: {_explain(typed, str(error))}")
        return
    key = override.get_key_element().lstrip("+~")
    if key == "hydra.searchpath":
        line.problems.append(f"{typed}: give your own configuration folder by --config-dir")
    elif key.startswith(("hydra.", "hydra/")):
        line.passed_on.append(typed)
    else:
        try:
            choice = _choice(typed, key, override, groups)
        except (HydraException, OmegaConfBaseException):
            line.problems.append(f"{typed}: this sweep has no list of values; write them out: a,b,c")
            return
        if not choice.values:
            line.problems.append(f"{typed}: matches nothing")
            return
        line.choices.append(choice)
        if override.is_sweep_override() and not line.multirun:
            line.problems.append(f"{typed}: several values make a sweep: add -m")


def _explain(typed: str, error: str) -> str:
    if "=" not in typed:
        return "settings are written key=value"
    key, _, value = typed.partition("=")
    if "=" in value or any(sign in value for sign in "()[]{}: ,"):
        return f"cannot be read; quote values with special characters, such as '{key}=\"{value:.60}\"'"
    return f"cannot be read: {error.splitlines()[0]}"


def _choice(typed: str, key: str, override: Override, groups: dict[str, list[str]]) -> Choice:
    signs = {OverrideType.ADD: "+", OverrideType.FORCE_ADD: "++", OverrideType.DEL: "~"}
    sign = signs.get(override.type, "") if override.type else ""
    if not override.is_sweep_override():
        return Choice(typed, sign, key, (plain(override.value()),), (typed.partition("=")[2],))
    swept: object = override.value()
    if isinstance(swept, Glob):
        texts = [str(option) for option in swept.filter(groups.get(key.split("@")[0], []))]
    else:
        texts = list(override.sweep_string_iterator())
    parser = OverridesParser.create()
    values = tuple(plain(parser.parse_override(f"k={text}").value()) for text in texts)
    return Choice(typed, sign, key, values, tuple(texts))


def key_of(override: str) -> str:
    """What stands left of ``=``, without a sign: ``engine.power``, ``fuel@tank.fuel``."""
    return override.lstrip("+~").partition("=")[0]


def place_of(override: str) -> str:
    """Where an override, or a group's mount, stands in the configuration: ``tank.fuel``."""
    key = key_of(override)
    return key.partition("@")[2] or key


def is_below(path: str, roots: Iterable[str]) -> bool:
    """Whether a path is one of the roots, or lies below one."""
    return any(path == root or path.startswith(f"{root}.") for root in roots)


def plain(value: object) -> Any:
    """A parsed value made of plain Python types."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)


def did_you_mean(wrong: str, options: list[str]) -> str:
    """``; did you mean X?`` or nothing."""
    close = get_close_matches(wrong, options, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
