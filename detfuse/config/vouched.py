"""Which part may stand where in a configuration that comes from a file: what YAML files that are trusted put there.

Trusted are the shipped files, and those of a folder that the user names by ``--config-dir``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from yaml import YAMLError

from detfuse.config.schema.frame import Frame, frame_of, read
from detfuse.config.schema.keys import HYDRA_KEYS
from detfuse.config.schema.overrides import place_of
from detfuse.errors import InputError

Place = tuple[str | int, ...]
"""Where a node stands: keys, and positions in lists."""
_PLANS = "ablation"  # the group whose files hold overrides


def require_vouched(config: Mapping[str, Any], directories: list[Path], source: Path) -> None:
    """Refuse a configuration that would call anything but the parts that belong where they stand: files are data.

    Args:
        config: plain.
        directories: the shipped configuration, and the user's if ``--config-dir`` vouches for it.
        source: the file it stands in, for messages.

    Raises:
        InputError: naming the first node that does not belong, and what would.
    """
    vouched = _vouched(tuple(directories))
    frame = frame_of(directories[0], "train")
    for path, marks in marked(config):
        fitting = vouched.get(_kind(path, frame), [])
        if marks in fitting:
            continue
        where, target = ".".join(map(str, path)), marks.get("_target_")
        known = [str(each["_target_"]) for each in fitting if "_target_" in each]
        if target in known:
            flags = ", ".join(f"{key}={value!r:.60}" for key, value in marks.items() if key != "_target_")
            problem = f"calls {target} at {where} with {flags or 'no _partial_'}, as none of detfuse's files does"
        elif any(target == each.get("_target_") for every in vouched.values() for each in every):
            expected = " or ".join(dict.fromkeys(known)) or "no part"
            problem = f"calls {target} at {where}, where it does not belong; expected {expected:.300}"
        else:
            problem = (
                f"calls {target!s:.100} at {where}, which is none of detfuse's parts; if it is your own, give the "
                "folder of its YAML by --config-dir"
            )
        raise InputError(f"{source}: its configuration {problem}")


@cache
def _vouched(directories: tuple[Path, ...]) -> dict[Place, list[dict[str, Any]]]:
    """Kind of place -> what nodes there have of Hydra's keys."""
    frame = frame_of(directories[0], "train")
    found: dict[Place, list[dict[str, Any]]] = {}
    for directory in directories:
        for file in sorted(directory.rglob("*.yaml")):
            with suppress(YAMLError, ValueError, OSError):  # the user's own may be broken: it vouches for nothing
                for path, marks in _marked_in(file, directory):
                    found.setdefault(_kind(path, frame), []).append(marks)
    return found


def _marked_in(file: Path, directory: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    content, header = read(file)
    group = file.parent.relative_to(directory).as_posix()
    if group == _PLANS:
        arms = content.get("arms")
        for settings in (content.get("common"), content.get("factors"), *(arms or {}).values()):
            for key, value in (settings or {}).items():
                yield from marked(value, tuple(place_of(str(key)).split(".")))
    else:
        in_place = group == "." or "@package _global_" in header
        yield from marked(content, () if in_place else (group,))


def marked(node: Any, path: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every node with keys of Hydra's, by its path, with these keys."""
    if isinstance(node, Mapping):
        if marks := {key: value for key, value in node.items() if key in HYDRA_KEYS}:
            yield path, marks
        for key, item in node.items():
            yield from marked(item, (*path, key))
    elif isinstance(node, list):
        for index, item in enumerate(node):
            yield from marked(item, (*path, index))


def _kind(path: Place, frame: Frame) -> Place:
    """A path by its group in place of its mount, and without names and positions that are free."""
    keys = [key for key in path if isinstance(key, str)]
    for end in range(len(keys), 0, -1):
        place = ".".join(keys[:end])
        if place in frame.parts:
            group = (frame.parts[place] or "").rpartition("/")[0]
            return (group or place, *keys[end:])
        if place in frame.collections:
            return (place, *keys[end + 1 :])
    return tuple(keys)
