"""Checks the keys and values of a configuration against the signatures of its targets."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detfuse.config.annotations import choices, fits, in_words
from detfuse.config.compose import Composed
from detfuse.config.overrides import Choice, did_you_mean
from detfuse.config.settings import SETTINGS
from detfuse.config.signatures import Parameter, Signature, UnknownTargetError, signature_of

_HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
_MISSING = "???"


class NodeCheck:
    """Checks one composed configuration.

    Args:
        composed: what to check.
        roots: folders to search for private targets.
        command: whose top-level keys are meant.
        typed: keys set on the command line, with the override as typed.
    """

    def __init__(self, composed: Composed, roots: tuple[Any, ...], command: str, typed: dict[str, str]) -> None:
        self.composed = composed
        self.roots = roots
        self.command = command
        self.typed = typed
        self.problems: list[str] = []
        settings = SETTINGS.get(command)
        name = f"{settings.__module__}.{settings.__qualname__}" if settings else None
        self.settings = signature_of(name) if name else None

    def check_key(self, choice: Choice) -> str | None:
        """Whether an override names a key that exists, or that its target takes."""
        parent, _, leaf = choice.key.rpartition(".")
        config = self.composed.config
        node = self._select(parent)
        exists = isinstance(node, DictConfig) and leaf in node.keys()  # noqa: SIM118  `in node` is false for ???
        if not isinstance(node, DictConfig):
            return f"{choice.typed}: {self._no_parent(parent)}{self._elsewhere(leaf)}"
        if exists and choice.sign == "+":
            return f"{choice.typed}: {choice.key} is there already; write {choice.typed[1:]}"
        if exists and node is not config:
            return self._part_as_value(choice)
        signature = self._signature(node)
        if exists:
            return None
        if signature is not None and leaf in signature.parameters and choice.sign in {"+", "++"}:
            parameter = signature.parameters[leaf]
            return f"{choice.typed}: {_wired(leaf, node)}" if parameter.wired else None
        if signature is not None and leaf in signature.configured and choice.sign == "":
            return f"{choice.typed}: not in the YAML of {parent}; write +{choice.typed}"
        if choice.sign in {"+", "++"} and (signature is None or signature.open) and node is not config:
            return None
        if signature is not None and leaf in signature.parameters:
            return f"{choice.typed}: {_wired(leaf, node)}"
        known = self._known(node, signature)
        hint = did_you_mean(leaf, known) or self._elsewhere(leaf)
        where = f"{parent} has" if parent else "there are"
        return f"{choice.typed}: there is no {choice.key}{hint or ';'} {where}: {', '.join(known)}"

    def _part_as_value(self, choice: Choice) -> str | None:
        """A part is chosen by its group; a plain value in its place would replace it."""
        mount = next((m for m in self.composed.choices if m.partition("@")[2] == choice.key), None)
        if mount is None or isinstance(choice.values[0], dict):
            return None
        return f"{choice.typed}: {choice.key} is a part, chosen by its group; write {mount}={','.join(choice.texts)}"

    def check_all(self) -> list[str]:
        """Every wrong key, type, choice, missing value and target of the configuration."""
        config = self.composed.config
        for key in config:
            path = str(key)
            self._check_value(path, self._plain(path), self._parameter(self.settings, path))
        self._check_mounts()
        return self.problems

    def _check_value(self, path: str, value: Any, parameter: Parameter | None) -> None:
        if value == _MISSING:
            self.problems.append(f"{path} is missing: give {path}=... ({self._expected(parameter)})")
            return
        wants_node = isinstance(value, dict) and "_target_" in value
        if parameter is not None and parameter.annotation is not None and not fits(value, parameter.annotation):
            self.problems.append(
                f"{self._where(path, value)}: expected {self._expected(parameter)}, got {value!r}"
                f"{self._close(value, parameter)}"
            )
            return
        if wants_node:
            self._check_target(path, value)
        elif isinstance(value, dict):
            for key, item in value.items():
                self._check_value(f"{path}.{key}", item, None)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self._check_value(f"{path}.{index}", item, None)

    def _check_target(self, path: str, node: dict[str, Any]) -> None:
        target = node["_target_"]
        try:
            signature = signature_of(str(target), self.roots)
        except UnknownTargetError as error:
            hint = did_you_mean(error.wrong, list(error.options))
            self.problems.append(f"{self._where(f'{path}._target_', target)}: {error}{hint}")
            return
        for key, value in node.items():
            if key in _HYDRA_KEYS:
                continue
            below = f"{path}.{key}"
            parameter = signature.parameters.get(key) if signature else None
            if signature is not None and parameter is None and not signature.open:
                known = signature.configured
                self.problems.append(
                    f"{self._where(below, value)}: {target} takes no {key}{did_you_mean(key, known) or ';'} "
                    f"it takes: {', '.join(known) or 'nothing'}"
                )
            elif parameter is not None and parameter.wired:
                self.problems.append(f"{self._where(below, value)}: {_wired(key, node)}")
            else:
                self._check_value(below, value, parameter)
        self._check_required(path, node, signature)

    def _check_required(self, path: str, node: dict[str, Any], signature: Signature | None) -> None:
        for name, parameter in (signature.parameters if signature else {}).items():
            if parameter.required and not parameter.wired and name not in node:
                self.problems.append(f"{path}.{name} is missing: give +{path}.{name}=... ({self._expected(parameter)})")

    def _check_mounts(self) -> None:
        """A private neck that was written without the shipped defaults has no operator to be given."""
        config = self.composed.config
        neck = self.composed.choices.get("neck")
        target = OmegaConf.select(config, "neck._target_")
        if neck is None or target is None or any(str(m).startswith("operator") for m in self.composed.choices):
            return
        try:
            signature = signature_of(str(target), self.roots)
        except UnknownTargetError:
            return
        if signature is not None and "operator" in signature.parameters and "operator" not in config:
            label = self.composed.composer.label(f"neck/{neck}")
            self.problems.append(
                f"neck={neck} ({label}): brings no operator and no resample; begin it with `defaults: [fpn, _self_]`"
            )

    def _plain(self, path: str) -> Any:
        """A node as plain containers, interpolations resolved where they can be."""
        config = self.composed.config
        node = config._get_node(path)
        if not OmegaConf.is_config(node):
            raw = OmegaConf.to_container(config, resolve=False)
            value = raw[path] if isinstance(raw, dict) else None
            if isinstance(value, str) and "${" in value:
                return self._resolved(path, value)
            return value
        try:
            return OmegaConf.to_container(node, resolve=True)
        except OmegaConfBaseException as error:
            self.problems.append(f"{path}: {str(error).splitlines()[0]}")
            return OmegaConf.to_container(node, resolve=False)

    def _resolved(self, path: str, value: str) -> Any:
        try:
            return OmegaConf.select(self.composed.config, path, throw_on_resolution_failure=True)
        except OmegaConfBaseException as error:
            self.problems.append(f"{path}: {value}: {str(error).splitlines()[0]}")
            return value

    def _parameter(self, signature: Signature | None, name: str) -> Parameter | None:
        return signature.parameters.get(name) if signature else None

    def _select(self, path: str) -> Any:
        return OmegaConf.select(self.composed.config, path) if path else self.composed.config

    def _signature(self, node: DictConfig) -> Signature | None:
        if node is self.composed.config:
            return self.settings
        if "_target_" not in node:
            return None
        try:
            return signature_of(str(node["_target_"]), self.roots)
        except UnknownTargetError:
            return None

    def _known(self, node: DictConfig, signature: Signature | None) -> list[str]:
        keys = [str(key) for key in node if key not in _HYDRA_KEYS]
        return list(dict.fromkeys([*keys, *(signature.configured if signature else [])]))

    def _no_parent(self, parent: str) -> str:
        above, _, missing = parent.rpartition(".")
        node = self._select(above)
        if isinstance(node, DictConfig) and missing not in node:
            known = [str(key) for key in node if key not in _HYDRA_KEYS]
            return f"there is no {parent}{did_you_mean(missing, known)}"
        return f"there is no node {parent}"

    def _elsewhere(self, leaf: str) -> str:
        """Where a key of this name does exist: ``max_epochs`` is meant as ``trainer.max_epochs``."""
        found = list(_paths(OmegaConf.to_container(self.composed.config, resolve=False), leaf, ""))
        return f"; did you mean {' or '.join(found[:3])}?" if found else ""

    def _where(self, path: str, value: Any) -> str:
        parts = path.split(".")
        for end in range(len(parts), 0, -1):
            typed = self.typed.get(".".join(parts[:end]))
            if typed is not None:
                return f"{typed} (command line)"
        origin = self.composed.origin(path)
        shown = value if not isinstance(value, dict | list) else "..."
        return f"{path}={shown} ({origin})" if origin else f"{path}={shown}"

    @staticmethod
    def _expected(parameter: Parameter | None) -> str:
        if parameter is None or parameter.annotation is None:
            return "a value"
        return in_words(parameter.annotation)

    @staticmethod
    def _close(value: Any, parameter: Parameter) -> str:
        if not isinstance(value, str) or parameter.annotation is None:
            return ""
        return did_you_mean(value, [str(choice) for choice in choices(parameter.annotation)])


def _wired(name: str, node: Any) -> str:
    return f"{node['_target_']} is given {name} by detfuse itself; remove it"


def _paths(content: Any, leaf: str, prefix: str) -> list[str]:
    if not isinstance(content, dict):
        return []
    found = [f"{prefix}{leaf}"] if leaf in content and prefix else []
    for key, value in content.items():
        found += _paths(value, leaf, f"{prefix}{key}.")
    return found
