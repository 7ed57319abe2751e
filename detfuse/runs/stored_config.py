"""Combining a stored configuration with what was typed: which settings the stored one keeps, which may change."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from detfuse.build import without_pretrained
from detfuse.config.kinds import OF_THIS_MACHINE, keys_of, kind_of
from detfuse.config.leaves import ABSENT, differences, shown, value_at
from detfuse.config.schema.overrides import is_below, key_of
from detfuse.errors import UserError
from detfuse.runs.invocation import Invocation

_FREE_ON_RESUME = ("trainer.max_epochs", *keys_of("machine", "display", "data"))  # the content of the data may not
_LEFT_TO_THE_WEIGHTS = ("detector.mean", "detector.std")  # null asks for what is stored as numbers


def resumed(stored: dict[str, Any], stored_choices: Mapping[str, str], invocation: Invocation) -> dict[str, Any]:
    """The stored configuration with the typed changes that a resumed run may have.

    Only what was typed is compared: a default that changed since is no change of this run.

    Raises:
        UserError: naming every typed setting that differs and may not.
    """
    config = deepcopy(stored)
    refused = []
    for override in invocation.typed:
        key = key_of(override)
        if _is_asked_anew(key) or _is_left_to_the_weights(key, invocation):
            continue
        if is_below(key, _FREE_ON_RESUME):
            path = "logger" if is_below(key, ("logger",)) else key
            _put(config, path, value_at(invocation.config, path))
        elif key in invocation.choices:
            if stored_choices.get(key) != invocation.choices[key]:
                refused.append(f"{override} (the run has {key}={stored_choices.get(key)})")
        elif value_at(config, key) != value_at(invocation.config, key):
            value = value_at(config, key)
            refused.append(f"{override} (the run has {'none' if value is ABSENT else value})")
    if refused:
        raise UserError(
            "a resumed run keeps its settings; these differ: "
            + "; ".join(refused)
            + f". What may change: {', '.join(_FREE_ON_RESUME)}"
        )
    return config


def kept_otherwise(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What a resumed run keeps, where two configurations that should be of one run differ in it.

    Returns:
        A text for each of the settings.
    """
    return [
        f"{path}={shown(left)} (here {shown(right)})"
        for path, (left, right) in differences(ours, theirs).items()
        if not _is_asked_anew(path) and not is_below(path, (*_FREE_ON_RESUME, *_LEFT_TO_THE_WEIGHTS))
    ]


def evaluated(stored: dict[str, Any], invocation: Invocation) -> dict[str, Any]:
    """A checkpoint's configuration for another command: the typed settings, and the devices of this machine.

    Raises:
        UserError: if a typed setting does not exist in the checkpoint's configuration.
    """
    config = without_pretrained(deepcopy(stored))
    given = invocation.config
    for name in OF_THIS_MACHINE:
        if name in given["trainer"]:
            config["trainer"][name] = given["trainer"][name]
    groups = [override for override in invocation.typed if key_of(override) in invocation.choices]
    for override in groups:
        _choose(config, key_of(override), given)
    for override in invocation.typed:
        key = key_of(override)
        if override not in groups and "." in key and not _is_left_to_the_weights(key, invocation):
            if value_at(config, key) is ABSENT and not override.startswith("+"):
                parent = value_at(config, key.rpartition(".")[0])
                known = ", ".join(k for k in parent if k != "_target_") if isinstance(parent, dict) else "no such node"
                part = key.partition(".")[0]
                other = f"; {part}=... chooses another" if part in invocation.choices else ""
                raise UserError(f"{override}: the checkpoint's configuration has no {key}; it has: {known}{other}")
            _put(config, key, value_at(given, key))
    return config


def _is_asked_anew(key: str) -> bool:
    """Where a run lies says the command; which checkpoint is scored is asked at its end."""
    return kind_of(key) == "place" or key == "evaluate"


def _is_left_to_the_weights(key: str, invocation: Invocation) -> bool:
    return key in _LEFT_TO_THE_WEIGHTS and value_at(invocation.config, key) is None


def _choose(config: dict[str, Any], group: str, given: dict[str, Any]) -> None:
    """Take a typed option, but leave what the weights were trained with: image sizes, batches, precision."""
    kept = {"data": ("transform", "loader"), "trainer": ("precision",)}.get(group, ())
    config[group] = {**deepcopy(given[group]), **{key: config[group][key] for key in kept if key in config[group]}}


def _put(config: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for part in parents:
        config = config.setdefault(part, {})
    if value is ABSENT:
        config.pop(leaf, None)
    else:
        config[leaf] = deepcopy(value)
