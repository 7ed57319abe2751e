"""The settings of a plain configuration, one by one, and what two configurations differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Leaves = dict[str, tuple[Any, Any]]
"""Path of a setting -> its two values; :data:`ABSENT` where one side has no such setting."""

ABSENT = object()


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of every setting, such as ``("data.loader.batch_size", 8)``. Lists and empty nodes are values."""
    if isinstance(node, Mapping) and node:
        for key, item in node.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def value_at(config: Any, path: str) -> Any:
    """What stands at a key such as ``data.root``; :data:`ABSENT`, if nothing does."""
    for part in path.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return ABSENT
        config = config[part]
    return config


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Leaves:
    """Every leaf in which two plain configurations differ."""
    left, right = dict(leaves(ours)), dict(leaves(theirs))
    pairs = {path: (left.get(path, ABSENT), right.get(path, ABSENT)) for path in dict.fromkeys([*left, *right])}
    return {path: (a, b) for path, (a, b) in pairs.items() if not _is_same(a, b)}


def shown(value: Any) -> str:
    """A value in a line."""
    if value is ABSENT:
        return "absent"
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (a is not ABSENT and b is not ABSENT and a == b)
