"""The configuration check: every mistake at once, within a second, before torch is imported.

Three passes. Overrides that choose an option of a group are checked against the files there are; the groups alone are
then composed; the remaining overrides, and finally the whole configuration, are checked against the signatures of the
targets, which are read from source.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from detfuse.config.compose import COMPOSITION_ERRORS, Composer, explained_composition
from detfuse.config.frame import frame_of
from detfuse.config.keys import Keys
from detfuse.config.location import conf_dir
from detfuse.config.nodes import NodeCheck
from detfuse.config.overrides import Choice, CommandLine, did_you_mean, read_command_line

# What the commands that start from a checkpoint may still change; the rest is the checkpoint's.
CHECKPOINT_COMMANDS = {
    "evaluate": ("data", "evaluation", "trainer", "combine"),
    "predict": ("data", "trainer", "combine"),
    "export": ("data", "combine"),
}


def check(argv: list[str], config_name: str, shipped: Path | None = None) -> list[str]:
    """Every mistake in a command line and in the configuration that it selects.

    Args:
        argv: arguments of the command, as in ``sys.argv[1:]``.
        config_name: the primary configuration: the command's name, such as ``train``.
        shipped: the configuration folder, by default detfuse's own.

    Returns:
        One message per mistake, each saying where the value came from; empty if all is well.
    """
    directory = shipped or conf_dir()
    line = read_command_line(argv, directory)
    if any(problem.startswith("--config-dir") for problem in line.problems):
        return line.problems
    composer = Composer(directory, line.config_dir, config_name)
    return _Check(composer, line, config_name).run()


class _Check:
    def __init__(self, composer: Composer, line: CommandLine, command: str) -> None:
        self.composer = composer
        self.line = line
        self.command = command
        self.frame = frame_of(composer.directories[0], command)
        self.roots = tuple(folder.parent for folder in composer.directories)
        self.problems: dict[str, None] = dict.fromkeys(line.problems)

    def run(self) -> list[str]:
        usable = [choice for choice in self.line.choices if self._is_allowed(choice)]
        chosen = [choice for choice in usable if self._is_group(choice)]
        settings = [choice for choice in usable if not self._is_group(choice)]
        groups = self._composable([choice for choice in chosen if self._has_options(choice)])
        reported = set(self.problems)
        for combination in self._combinations(groups, settings):
            self._check_combination(*combination)
        if self.command in CHECKPOINT_COMMANDS and set(self.problems) != reported:
            self._try_other_data(groups, settings, reported)
        return list(self.problems)

    def _is_allowed(self, choice: Choice) -> bool:
        root = choice.group.split(".")[0].split("/")[0]
        allowed = CHECKPOINT_COMMANDS.get(self.command)
        if allowed is None or root in allowed or root not in {*self.composer.groups, *_INLINE_NODES}:
            return True
        self._report(
            f"{choice.typed}: the checkpoint decides this: {self.command} takes weights and settings from it; "
            f"what may be changed: {', '.join(allowed)}"
        )
        return False

    def _is_group(self, choice: Choice) -> bool:
        return choice.group in self.composer.groups and (choice.sign != "~" or not choice.texts[0])

    def _report(self, problem: str) -> None:
        self.problems[problem] = None

    def _has_options(self, choice: Choice) -> bool:
        """Pass one: whether the options exist."""
        options = self.composer.groups[choice.group]
        wrong = [text for text in choice.texts if choice.sign != "~" and text not in options]
        if wrong:
            self._report(
                f"{choice.typed}: there is no {choice.group} {wrong[0]!r}{did_you_mean(wrong[0], options) or ';'} "
                f"the options are: {', '.join(options)}"
            )
        return not wrong

    def _composable(self, groups: list[Choice]) -> list[Choice]:
        """The choices for which there is a place; composes without a second look if all have one."""
        added = any(choice.sign == "+" and choice.group in self.composer.shipped_groups for choice in groups)
        if not added:
            with suppress(*COMPOSITION_ERRORS):
                self.composer.compose([choice.single() for choice in groups])
                return groups
        mounts = self._mounts(groups)
        return [choice for choice in groups if self._has_place(choice, mounts)]

    def _mounts(self, groups: list[Choice]) -> list[str]:
        """The places that exist: those of the default configuration and of the typed neck, if it can be composed."""
        mounts = list(self.composer.compose([]).choices)
        for choice in groups:
            if choice.key == "neck":
                with suppress(*COMPOSITION_ERRORS):
                    mounts += self.composer.compose([choice.single()]).choices
        return list(dict.fromkeys(mounts))

    def _has_place(self, choice: Choice, all_mounts: list[str]) -> bool:
        mounts = [mount for mount in all_mounts if mount.split("@")[0] == choice.group]
        if choice.key in mounts and choice.sign == "+":
            self._report(f"{choice.typed}: {choice.group} is there already; write {choice.typed[1:]}")
            return False
        if choice.key in mounts or (choice.sign == "+" and choice.group not in self.composer.shipped_groups):
            return True
        if not mounts:
            parts = ", ".join(sorted({mount.split("@")[0] for mount in all_mounts})) or "no parts"
            self._report(f"{choice.typed}: {self.command} has no place for {choice.group}; it has: {parts}")
        elif choice.sign == "~":
            self._report(f"{choice.typed}: {choice.group} has several places: {', '.join(mounts)}")
        else:
            written = " or ".join(f"{mount}={','.join(choice.texts)}" for mount in sorted(mounts, reverse=True))
            self._report(f"{choice.typed}: {choice.group} is chosen by its place; write {written}")
        return False

    def _combinations(
        self, groups: list[Choice], settings: list[Choice]
    ) -> Iterator[tuple[list[tuple[Choice, int]], list[tuple[Choice, int]]]]:
        """The first value of everything, then every other swept value beside the first ones of the rest."""
        yield [(choice, 0) for choice in groups], [(choice, 0) for choice in settings]
        for swept in [*groups, *settings]:
            for index in range(1, len(swept.values)):
                yield (
                    [(choice, index if choice is swept else 0) for choice in groups],
                    [(choice, index if choice is swept else 0) for choice in settings],
                )

    def _check_combination(self, groups: list[tuple[Choice, int]], settings: list[tuple[Choice, int]]) -> None:
        selected = [choice.single(index) for choice, index in groups]
        try:
            composed = self.composer.compose(selected)
        except COMPOSITION_ERRORS as error:
            self._report(self._explain(selected, error))
            return
        nodes = NodeCheck(composed, self.frame, self.roots, self.command, {})
        typed: dict[str, str] = {}
        for choice, index in settings:
            problem = nodes.keys.mistake(choice)
            if problem is None:
                problem = _apply(composed.config, choice, choice.values[index], nodes.keys)
            if problem is None:
                typed[choice.key] = choice.typed
            else:
                self._report(problem)
        nodes.typed = typed
        self.problems.update(dict.fromkeys(nodes.check_all()))

    def _explain(self, selected: list[str], error: Exception) -> str:
        neck = next((entry.partition("=")[2] for entry in selected if entry.startswith("neck=")), None)
        if neck is not None and self.composer.lacks_mounts("neck", neck):
            return (
                f"neck={neck} ({self.composer.label('neck/' + neck)}): brings no operator and no resample, so there is "
                "no place for their options; leave them out, or if the neck is a fusion graph, begin it with "
                "`defaults: [fpn, _self_]`"
            )
        return f"{' '.join(selected) or self.command}: {explained_composition(error)}"

    def _try_other_data(self, groups: list[Choice], settings: list[Choice], reported: set[str]) -> None:
        """A checkpoint may have been trained on any kind of data: a key is right if one of them has it."""
        if any(choice.group == "data" for choice in groups):
            return
        best = self.problems
        for option in self.composer.groups.get("data", []):
            self.problems = {problem: None for problem in best if problem in reported}
            data = Choice(f"data={option}", "", "data", (option,), (option,))
            for combination in self._combinations([data, *groups], settings):
                self._check_combination(*combination)
            if len(self.problems) < len(best):
                best = self.problems
        self.problems = best


_INLINE_NODES = {"detector", "module", "seed"}


def _apply(config: DictConfig, choice: Choice, value: Any, keys: Keys) -> str | None:
    merged = isinstance(value, dict) and (choice.sign != "" or not keys.takes_any_keys(choice.key))
    try:
        with open_dict(config):
            if choice.sign == "~":
                parent, _, leaf = choice.key.rpartition(".")
                node = OmegaConf.select(config, parent) if parent else config
                del node[leaf]
            else:
                OmegaConf.update(config, choice.key, value, merge=merged, force_add=True)
    except OmegaConfBaseException as error:
        return f"{choice.typed}: {str(error).splitlines()[0]}"
    return None


def replacements(line: CommandLine, command: str) -> dict[str, list[str]]:
    """Typed settings that replace a mapping with free keys, with what makes Hydra do so: it would merge the two.

    Args:
        line: a command line that has been checked.
        command: the primary configuration.

    Returns:
        The override as typed -> the overrides that stand for it.
    """
    mappings = [choice for choice in line.choices if choice.sign == "" and isinstance(choice.values[0], dict)]
    if not mappings:
        return {}
    composer = Composer(conf_dir(), line.config_dir, command)
    composed = composer.compose([choice.single() for choice in line.choices if choice.group in composer.groups])
    keys = Keys(composed, (), command)
    free = [choice for choice in mappings if keys.takes_any_keys(choice.key)]
    there = {choice.key: OmegaConf.select(composed.config, choice.key) is not None for choice in free}
    return {choice.typed: [*([f"~{choice.key}"] * there[choice.key]), f"++{choice.typed}"] for choice in free}
