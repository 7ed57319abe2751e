"""The check of a command: every mistake at once, within a second, before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from detfuse.config.location import conf_dir
from detfuse.config.retired import moved, why_retired
from detfuse.config.schema.check import OverridesCheck
from detfuse.config.schema.compose import Composer, composer_of
from detfuse.config.schema.frame import frame_of
from detfuse.config.schema.keys import Keys, Schema
from detfuse.config.schema.overrides import Choice, CommandLine, read_command_line
from detfuse.config.settings import Settings

_NO_CHECKPOINT = Choice("checkpoint=null", "", "checkpoint", (None,), ("null",))
_NO_DATA = Choice("data.root=.", "", "data.root", (".",), (".",))


def schema_of(settings: type[Settings], directories: Sequence[Path]) -> Schema:
    """What a configuration of a command is checked against.

    Args:
        settings: of the command.
        directories: the shipped configuration first, then the user's, beside which private targets lie.
    """
    roots = tuple(folder.parent for folder in directories)
    frame = frame_of(directories[0], settings.command)
    return Schema(settings.command, frame, settings, roots, moved, why_retired)


def check(argv: list[str], settings: type[Settings], shipped: Path | None = None) -> list[str]:
    """Every mistake in a command line and in the configuration that it selects.

    Args:
        argv: arguments of the command, as in ``sys.argv[1:]``.
        settings: of the command.
        shipped: the configuration folder, by default detfuse's own.

    Returns:
        One message per mistake, each saying where the value came from; empty if all is well.
    """
    directory = shipped or conf_dir()
    line = read_command_line(argv, directory)
    if any(problem.startswith("--config-dir") for problem in line.problems):
        return line.problems
    composer = composer_of(directory, line.config_dir, settings.command)
    schema = schema_of(settings, composer.directories)
    by_weights = _by_weights(line)
    open_groups = None if by_weights is not None else settings.open_groups
    refused = [choice for choice in line.choices if _is_the_checkpoints(choice, composer, schema, open_groups)]
    usable = [choice for choice in line.choices if choice not in refused]
    usable += _by_weights_implied(line, settings)
    found = OverridesCheck(composer, schema).run(usable)
    if found and open_groups is not None:
        found = _of_the_likeliest(found, usable, composer, schema, left_open(usable, settings))
    told = [
        f"{choice.typed}: the checkpoint decides this: {settings.command} takes weights and settings from it; what may "
        f"be changed: {', '.join(settings.open_groups or ())}"
        for choice in refused
    ]
    return list(dict.fromkeys([*line.problems, *told, *found]))


def left_open(choices: Sequence[Choice], settings: type[Settings]) -> list[str]:
    """Groups whose option the checkpoint says: what is typed below them must exist there, whatever the default has."""
    chosen = {choice.group for choice in choices}
    return [group for group in settings.open_groups or () if group not in chosen]


def _of_the_likeliest(
    found: list[str], choices: list[Choice], composer: Composer, schema: Schema, groups: Sequence[str]
) -> list[str]:
    """The mistakes if the checkpoint has those options of some groups for which they are fewest.

    What an option needs besides, such as the place of a data set, the checkpoint brings.
    """
    needed = set(OverridesCheck(composer, schema).run([]))
    likeliest: list[Choice] = []
    for group in groups:
        tried = [(found, likeliest)]
        if any(choice.key.startswith(f"{group}.") for choice in choices):
            for option in composer.groups.get(group, []):
                chosen = [*likeliest, Choice(f"{group}={option}", "", group, (option,), (option,))]
                brought = set(OverridesCheck(composer, schema).run(chosen)) - needed
                left = [
                    told for told in OverridesCheck(composer, schema).run([*chosen, *choices]) if told not in brought
                ]
                tried.append((left, chosen))
        found, likeliest = min(tried, key=lambda one: _unlikeliness(one[0]))
    return found


def _unlikeliness(problems: Sequence[str]) -> tuple[int, int]:
    """Of an option, by what would be wrong with it; a key that is no key is worse than one that is misspelt."""
    return len(problems), sum("there is no" in told and "did you mean" not in told for told in problems)


def _by_weights(line: CommandLine) -> Choice | None:
    """What names weights in place of a checkpoint, which then decides nothing."""
    return next((choice for choice in line.choices if choice.key == "weights" and choice.values != (None,)), None)


def _by_weights_implied(line: CommandLine, settings: type[Settings]) -> list[Choice]:
    """What weights in place of a checkpoint leave out, unless it was typed."""
    if _by_weights(line) is None:
        return []
    implied = [_NO_CHECKPOINT] if settings.needs_data else [_NO_CHECKPOINT, _NO_DATA]
    return [each for each in implied if all(choice.key != each.key for choice in line.choices)]


def _is_the_checkpoints(
    choice: Choice, composer: Composer, schema: Schema, open_groups: tuple[str, ...] | None
) -> bool:
    """Whether an override sets what a checkpoint has decided."""
    root = choice.group.split(".")[0].split("/")[0]
    of_training = {"seed", *composer.groups, *(place.split(".")[0] for place in schema.frame.parts)}
    return open_groups is not None and root in of_training.difference(open_groups)


def replacements(line: CommandLine, settings: type[Settings]) -> dict[str, list[str]]:
    """Typed settings that replace a mapping with free keys, with what makes Hydra do so: it would merge the two.

    Args:
        line: a command line that has been checked.
        settings: of the command.

    Returns:
        The override as typed -> the overrides that stand for it.
    """
    named = _by_weights(line)
    implied = [choice.typed for choice in _by_weights_implied(line, settings)]
    without = {named.typed: [named.typed, *implied]} if named else {}
    mappings = [choice for choice in line.choices if choice.sign == "" and isinstance(choice.values[0], dict)]
    if not mappings:
        return without
    composer = composer_of(conf_dir(), line.config_dir, settings.command)
    groups, _ = composer.parted(line.choices)
    composed = composer.compose([choice.single() for choice in groups])
    keys = Keys(composed, schema_of(settings, composer.directories))
    free = [choice for choice in mappings if keys.takes_any_keys(choice.key)]
    there = {choice.key: OmegaConf.select(composed.config, choice.key) is not None for choice in free}
    replaced = {choice.typed: [*([f"~{choice.key}"] * there[choice.key]), f"++{choice.typed}"] for choice in free}
    return {**without, **replaced}
