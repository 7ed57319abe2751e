"""What the configuration of a command consists of, as the shipped files say it; no file of a user adds to it.

Read from the defaults lists, without composing: it takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from detfuse.config.schema.groups import group_options

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Frame:
    """The places of a configuration, by their keys.

    Attributes:
        parts: where a node must stand -> the file that says by default what stands there, as ``group/option``; None
            for one that is written in place in a primary configuration.
        collections: mappings of named nodes: name -> the options of the group that bring it.
        brought: parts that come with another's option -> the place of that one, whose private options may do without.
        settings: the command's own keys.
    """

    parts: dict[str, str | None] = field(default_factory=dict)
    collections: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    brought: dict[str, str] = field(default_factory=dict)
    settings: set[str] = field(default_factory=set)

    def below(self, path: str) -> list[str]:
        """What stands in a mapping that is neither a part nor a collection; all top-level keys for ``""``."""
        start = f"{path}." if path else ""
        places = [*self.parts, *self.collections]
        return list(dict.fromkeys(p[len(start) :].split(".")[0] for p in places if p.startswith(start)))

    def may_lack(self, path: str) -> bool:
        """Whether a configuration is whole without it."""
        places = [place for place in self.parts if place == path or place.startswith(f"{path}.")]
        return all(place in self.brought for place in places)

    def without_what_it_brings(self, place: str) -> str:
        """What is wrong with an option that brings nothing to a place where others bring parts, and the remedy."""
        brought = dict.fromkeys(part.split(".")[0] for part, by in self.brought.items() if by == place)
        example = (self.parts[place] or "").rpartition("/")[2]
        return (
            f"brings no {' and no '.join(brought)}, so there is no place for their options; leave them out, or if it "
            f"is to have them, begin it with `defaults: [{example}, _self_]`"
        )


@cache
def frame_of(shipped: Path, config_name: str) -> Frame:
    """The frame of a command.

    Args:
        shipped: the project's own configuration folder.
        config_name: the primary configuration.
    """
    frame = Frame()
    _take_file(frame, shipped, config_name, None)
    return frame


def _take_file(frame: Frame, shipped: Path, name: str, bringer: str | None) -> None:
    """What a file's defaults list brings (to ``bringer``, its place), and what a primary configuration has in place."""
    content, _ = read(shipped / f"{name}.yaml")
    folder = name.rpartition("/")[0]
    for entry in content.pop("defaults", []):
        if isinstance(entry, str):
            if entry != "_self_":
                _take_file(frame, shipped, f"{folder}/{entry}" if folder else entry, bringer)
            continue
        key, option = next(iter(entry.items()))
        if not key.startswith("override "):
            _take_option(frame, shipped, key.lstrip("/"), str(option), bringer)
    if not folder:
        content.pop("hydra", None)
        frame.parts.update((path, None) for path in _nodes(content, ""))
        frame.settings.update(key for key, value in content.items() if not isinstance(value, Mapping))


def _take_option(frame: Frame, shipped: Path, mount: str, option: str, bringer: str | None) -> None:
    group, _, package = mount.partition("@")
    place = (package or group).removeprefix("_global_.")
    _, header = read(shipped / group / f"{option}.yaml")
    if target := _file_with_target(shipped, group, option):
        frame.parts[place] = target
        if bringer is not None:
            frame.brought[place] = bringer
    elif "@package _global_" not in header:
        names = frame.collections.setdefault(place, {})
        for each in group_options([shipped])[group]:
            for name, node in read(shipped / group / f"{each}.yaml")[0].items():
                if name != "defaults":
                    names.setdefault(name, []).extend([each] if isinstance(node, Mapping) else [])
    _take_file(frame, shipped, f"{group}/{option}", place)


def _file_with_target(shipped: Path, group: str, option: str) -> str | None:
    """The file that says what an option is: its own, or one of its folder that it begins with."""
    content, _ = read(shipped / group / f"{option}.yaml")
    if "_target_" in content:
        return f"{group}/{option}"
    bases = [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    return next(filter(None, (_file_with_target(shipped, group, base) for base in bases)), None)


def _nodes(content: Any, path: str) -> Iterator[str]:
    """Where nodes are written in place."""
    if not isinstance(content, Mapping):
        return
    if "_target_" in content:
        yield path
        return
    for key, value in content.items():
        yield from _nodes(value, f"{path}.{key}" if path else str(key))


def read(file: Path) -> tuple[dict[str, Any], str]:
    """A file's content, and its first line, which may name a package."""
    text = file.read_text(encoding="utf-8")
    content = yaml.load(text, _Loader)
    return content if isinstance(content, dict) else {}, text.partition("\n")[0]
