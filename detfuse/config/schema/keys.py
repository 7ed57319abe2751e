"""The keys of one configuration: what stands at them, what may stand there, and what is wrong with a typed one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detfuse.config.schema.annotations import fits
from detfuse.config.schema.frame import Frame
from detfuse.config.schema.overrides import Choice, did_you_mean
from detfuse.config.schema.signatures import PACKAGE, Parameter, Signature, UnknownTargetError, signature_of

HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


class Whole(Protocol):
    """A configuration that knows where it comes from: one that was composed, or that of a run."""

    @property
    def config(self) -> DictConfig: ...

    @property
    def choices(self) -> Mapping[str, Any]:
        """Mount point -> option, as far as it is known."""
        ...

    def origin(self, path: str) -> str | None:
        """The file that sets a key."""
        ...


@dataclass(frozen=True)
class Schema:
    """What the configuration of one command is checked against.

    Attributes:
        command: its name, which is that of the primary configuration.
        frame: the places that it has.
        settings: the dataclass of its own top-level keys.
        roots: folders to search for private targets.
        moved: where a target stands now, itself if it never stood elsewhere.
        why_retired: what to say about an argument that a target no longer takes; nothing if it never did.
    """

    command: str
    frame: Frame
    settings: type[Any]
    roots: tuple[Path, ...]
    moved: Callable[[str], str]
    why_retired: Callable[[str, str], str]


class Keys:
    """Finds nodes and their signatures.

    Args:
        whole: the configuration.
        schema: of its command.
    """

    def __init__(self, whole: Whole, schema: Schema) -> None:
        self.whole = whole
        self.config = whole.config
        self.roots = schema.roots
        self.settings = signature_of(f"{schema.settings.__module__}.{schema.settings.__qualname__}")

    def select(self, path: str) -> Any:
        """What stands at a key; the whole for ``""``, None where nothing does, as below a list."""
        try:
            return OmegaConf.select(self.config, path) if path else self.config
        except OmegaConfBaseException:
            return None

    def signature(self, node: DictConfig) -> Signature | None:
        """What a node takes; None where it is no part, or its target cannot be read."""
        if node is self.config:
            return self.settings
        if "_target_" not in node:
            return None
        try:
            return signature_of(str(node["_target_"]), self.roots)
        except UnknownTargetError:
            return None

    def parameter(self, path: str) -> Parameter | None:
        """What a setting may be; None if nothing says it."""
        parent, _, leaf = path.rpartition(".")
        node = self.select(parent)
        signature = self.signature(node) if isinstance(node, DictConfig) else None
        return signature.parameters.get(leaf) if signature else None

    def takes_any_keys(self, path: str) -> bool:
        """Whether a setting is a mapping whose keys are the user's, as those of a dictionary are."""
        parameter = self.parameter(path)
        return parameter is not None and parameter.annotation is not None and fits({}, parameter.annotation)

    def mistake(self, choice: Choice) -> str | None:
        """Whether an override names a key that exists, or that its target takes."""
        parent, _, leaf = choice.key.rpartition(".")
        config = self.config
        node = self.select(parent)
        exists = isinstance(node, DictConfig) and leaf in node.keys()  # noqa: SIM118  `in node` is false for ???
        if not exists and (mapping := self._mapping_above(choice.key)) is not None:
            return self._into_mapping(choice, mapping, node)
        if not isinstance(node, DictConfig):
            return f"{choice.typed}: {self._no_parent(parent)}{self._elsewhere(leaf)}"
        if exists and choice.sign == "+":
            return f"{choice.typed}: {choice.key} is there already; write {choice.typed[1:]}"
        if exists and node is not config:
            return self._part_as_value(choice)
        signature = self.signature(node)
        if exists:
            return None
        if signature is not None and leaf in signature.parameters and choice.sign in {"+", "++"}:
            parameter = signature.parameters[leaf]
            return f"{choice.typed}: {wired(leaf, node)}" if parameter.wired else None
        if signature is not None and leaf in signature.configured and choice.sign == "":
            return f"{choice.typed}: not in the YAML of {parent}; write +{choice.typed}"
        if choice.sign in {"+", "++"} and (signature is None or signature.open) and node is not config:
            return None
        if signature is not None and leaf in signature.parameters:
            return f"{choice.typed}: {wired(leaf, node)}"
        known = self._known(node, signature)
        hint = did_you_mean(leaf, known) or self._elsewhere(leaf)
        where = f"{parent} has" if parent else "there are"
        return f"{choice.typed}: there is no {choice.key}{hint or ';'} {where}: {', '.join(known)}"

    def _mapping_above(self, key: str) -> str | None:
        """The mapping with free keys that a key lies in."""
        parts = key.split(".")
        paths = (".".join(parts[:end]) for end in range(1, len(parts)))
        return next((path for path in paths if self.takes_any_keys(path)), None)

    def _into_mapping(self, choice: Choice, mapping: str, parent: Any) -> str | None:
        """A new key of the user's own: Hydra takes one without dots, and with a sign."""
        key = choice.key.removeprefix(f"{mapping}.")
        if "." in key or not isinstance(parent, DictConfig):
            return f"{choice.typed}: give this mapping as a whole: '{mapping}={{{key}: {choice.texts[0]}, ...}}'"
        return None if choice.sign else f"{choice.typed}: not in {mapping} yet; write +{choice.typed}"

    def _part_as_value(self, choice: Choice) -> str | None:
        """A part is chosen by its group; a plain value in its place would replace it."""
        mount = next((m for m in self.whole.choices if m.partition("@")[2] == choice.key), None)
        if mount is None or isinstance(choice.values[0], dict):
            return None
        return f"{choice.typed}: {choice.key} is a part, chosen by its group; write {mount}={','.join(choice.texts)}"

    def _known(self, node: DictConfig, signature: Signature | None) -> list[str]:
        keys = [str(key) for key in node if key not in HYDRA_KEYS]
        return list(dict.fromkeys([*keys, *(signature.configured if signature else [])]))

    def _no_parent(self, parent: str) -> str:
        above, _, missing = parent.rpartition(".")
        node = self.select(above)
        if isinstance(node, DictConfig) and missing not in node:
            known = [str(key) for key in node if key not in HYDRA_KEYS]
            return f"there is no {parent}{did_you_mean(missing, known)}"
        return f"there is no node {parent}"

    def _elsewhere(self, leaf: str) -> str:
        """Where a key of this name does exist, if it was typed without its part."""
        found = [path for path, _ in self._entries() if path.endswith(f".{leaf}")]
        return f"; did you mean {' or '.join(found[:3])}?" if found else ""

    def _entries(self) -> Iterator[tuple[str, Any]]:
        return _entries(OmegaConf.to_container(self.config, resolve=False))

    def place_of(self, value: str) -> str | None:
        """The first key that is set to a value, as it is written."""
        return next((path for path, written in self._entries() if written == value), None)


def wired(name: str, node: Any) -> str:
    """The mistake of setting what is handed over in code."""
    return f"{node['_target_']} is given {name} by {PACKAGE} itself; remove it"


def _entries(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a configuration by its path, with what stands there, nodes too."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield f"{prefix}{key}", value
            yield from _entries(value, f"{prefix}{key}.")
