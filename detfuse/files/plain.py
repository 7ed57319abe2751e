"""What a file holds as plain data, bounded before anything walks it: a few bytes can stand for billions of values."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from detfuse.errors import InputError

_MOST_BYTES = 1_000_000  # of a YAML file, whose parser takes ten seconds for as many
_MOST_VALUES, _DEEPEST, _LONGEST = 100_000, 40, 100_000


def require_plain(content: Any, file: Path, name: str) -> None:
    """Refuse what no configuration of detfuse is: objects, references, more than anybody writes.

    A value that is referred to several times counts each time, as whoever walks it would meet it.

    Args:
        content: as it was parsed.
        file: that it stands in, for messages.
        name: what it is called there.

    Raises:
        InputError: naming the place and what is wrong with it.
    """
    waiting: list[tuple[_Trail, Any, int]] = [((None, name), content, 0)]
    for count in range(_MOST_VALUES + 1):
        if not waiting:
            return
        trail, value, depth = waiting.pop()
        if problem := _problem(value, depth):
            raise InputError(f"{file}: {_path(trail):.300} {problem}; it was not written by detfuse")
        if isinstance(value, dict | list):
            if count + len(waiting) + len(value) > _MOST_VALUES:
                break
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [((trail, key), item, depth + 1) for key, item in items]
    raise InputError(f"{file}: {name} has more than {_MOST_VALUES:,} values; it was not written by detfuse")


_Trail = tuple[Any, str | int]
"""Where a value stands: the trail of what holds it, and its key or its position there."""


def _path(trail: _Trail) -> str:
    """``config.a[3].b``; written only where it is told, for that takes longer than to look."""
    above, key = trail
    if above is None:
        return str(key)
    return f"{_path(above)}.{key}" if isinstance(key, str) else f"{_path(above)}[{key}]"


def _problem(value: Any, depth: int) -> str:
    if depth > _DEEPEST:
        return f"lies more than {_DEEPEST} levels deep"
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
    if odd := [text for text in texts if not isinstance(text, str)]:
        return f"has the key {odd[0]!r:.60}, which is no text"
    if any(len(text) > _LONGEST for text in texts):
        return f"has a text of more than {_LONGEST:,} characters"
    if unresolved := [text for text in texts if "${" in text]:
        return f"has the unresolved value {unresolved[0]!r:.60}"
    if isinstance(value, int) and not _fits(value):
        return f"is {_TOO_LONG}"
    if value is not None and not isinstance(value, str | int | float | dict | list):
        return f"is a {type(value).__name__}, and a configuration is plain text and numbers"
    return ""


_TOO_LONG = "a number of more digits than 64 bits hold"


def _fits(number: int) -> bool:
    return -(2**63) <= number < 2**64


def read_yaml(file: Path) -> Any:
    """The content of a YAML file; its tags make no objects, its aliases no more than anybody writes.

    Raises:
        OSError: if it cannot be opened.
        InputError: if it is no YAML, or holds more than plain data (see :func:`require_plain`).
    """
    if file.stat().st_size > _MOST_BYTES:
        raise InputError(f"{file}: has more than {_MOST_BYTES:,} bytes; it was not written by detfuse")
    content = _parsed(file, yaml.safe_load)
    require_plain(content, file, file.stem)
    return content


def read_mapping(file: Path) -> dict[str, Any]:
    """The content of a YAML file that has keys; see :func:`read_yaml`.

    Raises:
        OSError: if it cannot be opened.
        InputError: if it has none, too.
    """
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a mapping; it was cut or edited")
    return content


def read_json(file: Path) -> Any:
    """The content of a JSON file, which has nothing but plain data, each value once.

    Raises:
        OSError: if it cannot be opened.
        InputError: if it is no JSON, or has integers that no column and no float could take.
    """
    return _parsed(file, partial(json.loads, parse_int=_whole))


def _whole(digits: str) -> int:
    number = int(digits)
    if not _fits(number):
        raise InputError(f"{digits[:20]}... is {_TOO_LONG}")
    return number


def _parsed(file: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise InputError(f"{file}: cannot be read ({reason}); it was cut or edited") from error
