"""Composing configurations for the check, and finding which file a value came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from detfuse.config.schema.groups import group_options
from detfuse.config.schema.overrides import Choice

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)
"""What composing raises for what was typed or written in a file."""


def explained_composition(error: Exception) -> str:
    """One of :data:`COMPOSITION_ERRORS` in a line, without what Hydra says about itself."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    lines = [line.strip() for text in (str(error), str(cause or "")) for line in text.splitlines()]
    said = [line for line in lines if line and not line.startswith(_HYDRAS_OWN_WORDS)]
    return " ".join(dict.fromkeys(said[:4]))


_HYDRAS_OWN_WORDS = ("Set the environment variable", "full_key:", "object_type=", "reference_type=")


@dataclass
class Composed:
    """A composed configuration.

    Attributes:
        config: without Hydra's own node.
        choices: mount point (``group``, ``group@place``) -> option.
        composer: who composed it.
        overrides: from which overrides.
    """

    config: DictConfig
    choices: dict[str, Any]
    composer: Composer
    overrides: list[str]

    def origin(self, path: str) -> str | None:
        """The last YAML file that sets a key, as ``group/x.yaml``."""
        return self.composer.origin(path, self.overrides)


def composer_of(shipped: Path, user: Path | None, config_name: str) -> Composer:
    """The composer of a command: the same one, with all that it composed, until a file of its folders changes."""
    folders = (shipped, user) if user else (shipped,)
    files = ((file, file.stat()) for folder in folders for file in sorted(folder.rglob("*.yaml")))
    return _composer(shipped, user, config_name, tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in files))


@lru_cache(maxsize=16)  # one for each command
def _composer(shipped: Path, user: Path | None, config_name: str, _: tuple[tuple[Path, int, int], ...]) -> Composer:
    return Composer(shipped, user, config_name)


class Composer:
    """Composes one primary configuration from the shipped folder and the user's.

    Args:
        shipped: the project's own configuration.
        user: the folder given by ``--config-dir``.
        config_name: the primary configuration.
    """

    def __init__(self, shipped: Path, user: Path | None, config_name: str) -> None:
        self.directories = [shipped, user] if user else [shipped]
        self.config_name = config_name
        self.groups = group_options(self.directories)
        self.shipped_groups = set(group_options([shipped]))
        self._known: dict[tuple[str, ...], Composed] = {}
        self._files: dict[tuple[str, ...], list[tuple[str, str, Any]]] = {}
        self._searchpath = [f'hydra.searchpath=["file://{user}"]'] if user else []

    def parted(self, choices: Iterable[Choice]) -> tuple[list[Choice], list[Choice]]:
        """Overrides that choose an option of a group, and those that set a key."""
        groups: list[Choice] = []
        settings: list[Choice] = []
        for choice in choices:
            is_group = choice.group in self.groups and (choice.sign != "~" or not choice.texts[0])
            (groups if is_group else settings).append(choice)
        return groups, settings

    def compose(self, overrides: list[str]) -> Composed:
        """Compose (once: the next time it is a copy); Hydra's and OmegaConf's errors pass through."""
        key = tuple(overrides)
        if key not in self._known:
            self._known[key] = self._compose(overrides)
        known = self._known[key]
        return replace(known, config=deepcopy(known.config))

    def _compose(self, overrides: list[str]) -> Composed:
        with _hydra_on(self.directories[0]):
            config = compose(self.config_name, [*overrides, *self._searchpath], return_hydra_config=True)
        choices = {
            mount: option for mount, option in config.hydra.runtime.choices.items() if not mount.startswith("hydra/")
        }
        OmegaConf.set_readonly(config, False)
        with open_dict(config):
            del config["hydra"]
        return Composed(config, choices, self, overrides)

    def origin(self, path: str, overrides: list[str]) -> str | None:
        """The last YAML file in the defaults list that sets a key; None if no file does."""
        key = tuple(overrides)
        if key not in self._files:
            self._files[key] = self._sources(overrides)
        for config_path, package, content in reversed(self._files[key]):
            inside = _below(path, package)
            if inside is not None and _has(content, inside):
                return self.label(config_path)
        return None

    def _sources(self, overrides: list[str]) -> list[tuple[str, str, Any]]:
        """Every file of the defaults list with its package and its content."""
        with _hydra_on(self.directories[0]):
            loader = GlobalHydra.instance().config_loader()
            listed = loader.compute_defaults_list(self.config_name, [*overrides, *self._searchpath], RunMode.RUN)
        found = ((default.config_path or "", default.package or "") for default in listed.defaults)
        return [(path, package, self.read(file)) for path, package in found if (file := self.file(path)) is not None]

    def file(self, config_path: str) -> Path | None:
        """The file of a configuration such as ``group/option``."""
        name = config_path.removesuffix(".yaml") + ".yaml"
        return next((d / name for d in self.directories if (d / name).is_file()), None)

    def label(self, config_path: str) -> str:
        """A file as people know it: relative to the configuration folder, the user's with its name."""
        file = self.file(config_path)
        if file is None:
            return f"{config_path}.yaml"
        if file.is_relative_to(self.directories[0]):
            return f"conf/{file.relative_to(self.directories[0]).as_posix()}"
        return str(file)

    @staticmethod
    def read(file: Path) -> Any:
        """A YAML file without its defaults list, uninterpolated."""
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        return {k: v for k, v in content.items() if k != "defaults"} if isinstance(content, dict) else {}

    def begins_with_nothing(self, config_path: str) -> bool:
        """Whether a file has no defaults list, so that it brings no parts."""
        file = self.file(config_path)
        return file is not None and "defaults" not in OmegaConf.load(file)


@contextmanager
def _hydra_on(directory: Path) -> Iterator[None]:
    """Hydra on a folder; within a job of Hydra's own too, which it goes back to."""
    running, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(str(directory), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def _below(path: str, package: str) -> str | None:
    if not package or package == "_global_":
        return path
    if path == package:
        return ""
    return path[len(package) + 1 :] if path.startswith(f"{package}.") else None


def _has(content: Any, path: str) -> bool:
    for part in path.split(".") if path else []:
        if isinstance(content, list):
            return True
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True
