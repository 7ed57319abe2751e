"""Checks the keys and values of a configuration against its frame and the signatures of its targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detfuse.config.schema.annotations import choices, fits, in_words
from detfuse.config.schema.keys import HYDRA_KEYS, Keys, Schema, Whole, wired
from detfuse.config.schema.overrides import did_you_mean
from detfuse.config.schema.signatures import Parameter, Signature, UnknownTargetError, signature_of
from detfuse.errors import InputError
from detfuse.ranges import too_large

_MISSING = "???"


class NodeCheck:
    """Checks one configuration.

    Args:
        composed: what to check.
        schema: of its command.
    """

    def __init__(self, composed: Whole, schema: Schema) -> None:
        self.composed = composed
        self.schema = schema
        self.frame = schema.frame
        self.typed: dict[str, str] = {}  # keys set on the command line, with the override as typed
        self.problems: list[str] = []
        self.keys = Keys(composed, schema)
        self._names = list(self.keys.settings.parameters) if self.keys.settings else []

    def check_all(self) -> list[str]:
        """Every wrong key, type, choice, missing value and target of the configuration."""
        config = self.composed.config
        for key in config:
            path = str(key)
            if path not in self._names:
                self._check_place(path, self._plain(path))
        self._check_missing("", [name for name in self.frame.below("") if name not in self.frame.collections], config)
        self._check_brought()
        self._check_settings()
        return self.problems

    def _check_settings(self) -> None:
        before = len(self.problems)
        config = self.composed.config
        for name in self._names:
            if name in config.keys():  # noqa: SIM118  `in config` is false for ???
                self._check_value(name, self._plain(name), self.keys.parameter(name))
            elif name in self.frame.settings:
                expected = self._expected(self.keys.parameter(name))
                self.problems.append(f"{name} is missing: {self.schema.command} needs it ({expected})")
        if len(self.problems) == before and set(self._names) <= set(config):
            try:  # what they must be together
                self.schema.settings(**{name: self._plain(name) for name in self._names})
            except InputError as error:
                self.problems.append(str(error))

    def _check_place(self, path: str, value: Any) -> None:
        """Whether what stands at a place of the frame is of its kind, all the way down."""
        known = self.frame.below(path)
        if path in self.frame.parts:
            self._check_part(path, value, self._choose(path))
        elif path in self.frame.collections:
            self._check_collection(path, value)
        elif not known:
            above = path.rpartition(".")[0]
            self._report_unknown(path, value, [*([] if above else self._names), *self.frame.below(above)])
        elif not isinstance(value, dict):
            self.problems.append(f"{self._where(path, value)}: expected a mapping with {', '.join(known)}")
        else:
            for key, item in value.items():
                self._check_place(f"{path}.{key}", item)
            self._check_missing(path, known, value)

    def _check_part(self, path: str, value: Any, remedy: str) -> None:
        if isinstance(value, dict) and "_target_" in value:
            self._check_target(path, value)
        else:
            self.problems.append(f"{self._where(path, value)}: this must be a part, a node with a `_target_`{remedy}")

    def _check_collection(self, path: str, value: Any) -> None:
        """Named nodes, one's own too; null switches one off."""
        known = self.frame.collections[path]
        if not isinstance(value, dict | None):
            self.problems.append(f"{self._where(path, value)}: expected a mapping of nodes by name")
            return
        for name, item in (value or {}).items():
            below = f"{path}.{name}"
            if item is not None:
                options = known.get(name, [])
                remedy = f"; {path}={' or '.join(options)} brings one" if options else did_you_mean(name, list(known))
                self._check_part(below, item, remedy)
            elif name not in known:
                self._report_unknown(below, item, list(known))

    def _check_missing(self, path: str, names: Sequence[str], present: Any) -> None:
        for name in names:
            below = f"{path}.{name}" if path else name
            if name not in present and not self.frame.may_lack(below):
                remedy = self._choose(below)
                self.problems.append(f"{below} is missing: {self.schema.command} needs it{remedy}")

    def _report_unknown(self, path: str, value: Any, known: list[str]) -> None:
        leaf = path.rpartition(".")[2]
        hint = did_you_mean(leaf, known)
        if not hint and "." not in path:
            place = self.keys.place_of(f"${{{path}}}") or "part.key"
            hint = f"; a key of your own is read by nothing: refer to where a value stands, as in ${{{place}}}"
        self.problems.append(
            f"{self._where(path, value)}: there is no {path}{hint}{'' if hint.endswith('?') else ';'} there are: "
            f"{', '.join(known)}"
        )

    def _choose(self, path: str) -> str:
        """How a part is chosen."""
        default = self.frame.parts.get(path)
        if default is None:
            return ""
        group = default.rpartition("/")[0]
        mount = path if path == group else f"{group}@{path}"
        return f"; choose one by {mount}=..., whose YAML has a `_target_` as conf/{default}.yaml has"

    def _check_value(self, path: str, value: Any, parameter: Parameter | None) -> None:
        if value == _MISSING:
            self.problems.append(f"{path} is missing: give {path}=... ({self._expected(parameter)})")
            return
        if parameter is not None and parameter.annotation is not None and not fits(value, parameter.annotation):
            self.problems.append(
                f"{self._where(path, value)}: expected {self._expected(parameter)}, got {_shown(value)}"
                f"{self._close(value, parameter)}"
            )
            return
        if isinstance(value, dict) and "_target_" in value:
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
            signature = signature_of(str(target), self.schema.roots)
        except UnknownTargetError as error:
            now = self.schema.moved(str(target))
            hint = f"; it is {now} now" if now != target else did_you_mean(error.wrong, list(error.options))
            self.problems.append(f"{self._where(f'{path}._target_', target)}: {error}{hint}")
            return
        for key, value in node.items():
            if key in HYDRA_KEYS:
                continue
            below = f"{path}.{key}"
            parameter = signature.parameters.get(key) if signature else None
            if signature is not None and parameter is None and not signature.open:
                known = signature.configured
                why = self.schema.why_retired(str(target), key) or did_you_mean(key, known)
                self.problems.append(
                    f"{self._where(below, value)}: {target} takes no {key}{why or ';'} "
                    f"it takes: {', '.join(known) or 'nothing'}"
                )
            elif parameter is not None and parameter.wired:
                self.problems.append(f"{self._where(below, value)}: {wired(key, node)}")
            else:
                self._check_value(below, value, parameter)
        self._check_required(path, node, signature)

    def _check_required(self, path: str, node: dict[str, Any], signature: Signature | None) -> None:
        for name, parameter in (signature.parameters if signature else {}).items():
            if parameter.required and not parameter.wired and name not in node:
                self.problems.append(f"{path}.{name} is missing: give +{path}.{name}=... ({self._expected(parameter)})")

    def _check_brought(self) -> None:
        """A part may be given what its option should have brought: ``a.b`` as its argument ``a_b``.

        A private option that was written without the shipped defaults brings none of it, or brings what its part does
        not take.
        """
        for place in dict.fromkeys(self.frame.brought.values()):
            node = self.keys.select(place)
            signature = self.keys.signature(node) if isinstance(node, DictConfig) else None
            taken = signature.parameters if signature else {}
            brought = [part for part, by in self.frame.brought.items() if by == place]
            parts = [part for part in brought if part.replace(".", "_") in taken]
            missing = [part for part in parts if self.keys.select(part) is None]
            if missing and missing == parts:
                self.problems.append(f"{self._chosen(place)}: {self.frame.without_what_it_brings(place)}")
            elif signature and not signature.open and (idle := self._idle(brought, parts)):
                self.problems.append(
                    f"{self._chosen(place)}: brings {' and '.join(idle)}, which {node['_target_']} does not take; "
                    f"leave {'it' if len(idle) == 1 else 'them'} out of its defaults"
                )
            else:
                self.problems += [f"{part} is missing: {place} needs it{self._choose(part)}" for part in missing]

    def _chosen(self, place: str) -> str:
        """The option of a part and its file, for messages: finding the file takes as long as all of the check."""
        chosen = f"{place}={self.composed.choices[place]}" if place in self.composed.choices else place
        return f"{chosen} ({self.composed.origin(f'{place}._target_')})"

    def _idle(self, brought: list[str], taken: list[str]) -> list[str]:
        """What is brought and not taken, by its first key."""
        idle = [part for part in brought if part not in taken and self.keys.select(part) is not None]
        return list(dict.fromkeys(part.split(".")[0] for part in idle))

    def _plain(self, path: str) -> Any:
        """A node as plain containers, interpolations resolved where they can be."""
        config = self.composed.config
        node = config._get_node(path)
        if not OmegaConf.is_config(node):
            value = None if node is None else node._value()
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

    def _where(self, path: str, value: Any) -> str:
        parts = path.split(".")
        for end in range(len(parts), 0, -1):
            typed = self.typed.get(".".join(parts[:end]))
            if typed is not None:
                return f"{typed:.200} (command line)"
        origin = self.composed.origin(path)
        shown = f"{value!s:.100}" if not isinstance(value, dict | list) else "..."
        return f"{path}={shown} ({origin})" if origin else f"{path}={shown}"

    @staticmethod
    def _expected(parameter: Parameter | None) -> str:
        if parameter is None or parameter.annotation is None:
            return "a value"
        return in_words(parameter.annotation)

    @staticmethod
    def _close(value: Any, parameter: Parameter) -> str:
        if beyond := too_large(value):
            return f"; {beyond}"
        if not isinstance(value, str) or parameter.annotation is None:
            return ""
        return did_you_mean(value, [str(choice) for choice in choices(parameter.annotation)])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
