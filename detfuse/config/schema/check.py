"""The check of a command line: every mistake at once, without importing what it checks.

Three passes. Overrides that choose an option of a group are checked against the files there are; the groups alone are
then composed; the remaining overrides, and finally the whole configuration, are checked against the signatures of the
targets, which are read from source.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from detfuse.config.schema.compose import COMPOSITION_ERRORS, Composer, explained_composition
from detfuse.config.schema.keys import Keys, Schema
from detfuse.config.schema.nodes import NodeCheck
from detfuse.config.schema.overrides import Choice, did_you_mean


class OverridesCheck:
    """Checks overrides, and the configuration that they select.

    Args:
        composer: of the command.
        schema: of the command.

    Attributes:
        problems: one message per mistake, each saying where the value came from, in order.
    """

    def __init__(self, composer: Composer, schema: Schema) -> None:
        self.composer = composer
        self.schema = schema
        self.problems: dict[str, None] = {}

    def run(self, choices: list[Choice]) -> list[str]:
        """Every mistake."""
        chosen, settings = self.composer.parted(choices)
        groups = self._composable([choice for choice in chosen if self._has_options(choice)])
        for combination in _combinations([*groups, *settings]):
            self._check_combination(combination)
        return list(self.problems)

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
        """The places that exist: those of the default configuration, and what each typed option brings by itself."""
        mounts = list(self.composer.compose([]).choices)
        for choice in groups:
            if choice.key in self.schema.frame.brought.values():
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
            self._report(f"{choice.typed}: {self.schema.command} has no place for {choice.group}; it has: {parts}")
        elif choice.sign == "~":
            self._report(f"{choice.typed}: {choice.group} has several places: {', '.join(mounts)}")
        else:
            written = " or ".join(f"{mount}={','.join(choice.texts)}" for mount in sorted(mounts, reverse=True))
            self._report(f"{choice.typed}: {choice.group} is chosen by its place; write {written}")
        return False

    def _check_combination(self, choices: list[Choice]) -> None:
        groups, settings = self.composer.parted(choices)
        try:
            composed = self.composer.compose([choice.single() for choice in groups])
        except COMPOSITION_ERRORS as error:
            self._report(self._explain(groups, error))
            return
        nodes = NodeCheck(composed, self.schema)
        for choice in settings:
            problem = apply(choice, nodes.keys)
            if problem is None:
                nodes.typed[choice.key] = choice.typed
            else:
                self._report(problem)
        self.problems.update(dict.fromkeys(nodes.check_all()))

    def _explain(self, groups: list[Choice], error: Exception) -> str:
        frame = self.schema.frame
        for choice in groups:
            option = f"{choice.key}/{choice.texts[0]}"
            if choice.key in frame.brought.values() and self.composer.begins_with_nothing(option):
                label = self.composer.label(option)
                return f"{choice.single()} ({label}): {frame.without_what_it_brings(choice.key)}"
        selected = " ".join(choice.single() for choice in groups)
        return f"{selected or self.schema.command}: {explained_composition(error)}"


def _combinations(choices: list[Choice]) -> Iterator[list[Choice]]:
    """The first value of everything, then every other swept value beside the first ones of the rest."""
    yield [choice.at(0) for choice in choices]
    for swept in choices:
        for index in range(1, len(swept.values)):
            yield [choice.at(index if choice is swept else 0) for choice in choices]


def apply(choice: Choice, keys: Keys) -> str | None:
    """Set a setting's first value in a configuration, as Hydra does; a mapping whose keys are free is replaced.

    Returns:
        What is wrong with it, as far as its key and OmegaConf say.
    """
    if (problem := keys.mistake(choice)) is not None:
        return problem
    config, value = keys.config, choice.values[0]
    merged = isinstance(value, dict) and (choice.sign != "" or not keys.takes_any_keys(choice.key))
    try:
        with open_dict(config):
            if choice.sign == "~":
                parent, _, leaf = choice.key.rpartition(".")
                node: DictConfig = keys.select(parent)
                del node[leaf]
            else:
                OmegaConf.update(config, choice.key, value, merge=merged, force_add=True)
    except OmegaConfBaseException as error:
        return f"{choice.typed}: {str(error).splitlines()[0]}"
    return None
