"""Records as plain containers there and back, checked against their dataclasses.

``to_plain`` and ``from_plain`` follow the type annotations, so a record needs no code of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from detfuse.errors import InputError

T = TypeVar("T")


class StorageError(InputError):
    """A file, or plain data, that is not the record it should be; the message names file and key."""


def to_plain(record: Any) -> Any:
    """A record as dicts, lists, text and numbers; paths become text, the keys of mappings too."""
    if is_dataclass(record) and not isinstance(record, type):
        return {field.name: to_plain(getattr(record, field.name)) for field in fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_plain(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [to_plain(value) for value in record]
    return str(record) if isinstance(record, Path) else record


def from_plain(cls: type[T], data: Any, where: str = "") -> T:
    """The record that :func:`to_plain` made plain.

    Args:
        cls: a dataclass.
        data: plain containers.
        where: named in errors, such as the file.

    Raises:
        StorageError: for missing and unknown keys, values of another type, and what the record itself refuses.
    """
    if not isinstance(data, Mapping):
        raise StorageError(f"{where or cls.__name__}: expected the keys of a {cls.__name__}, got {_shown(data)}")
    start = f"{where}: " if where else ""
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]  # the caller gives a dataclass
    problems = [f"unknown key {str(key)!r}" for key in data if key not in known]
    problems += [f"{name!r} is missing" for name, field in known.items() if name not in data and _is_required(field)]
    if problems:
        raise StorageError(f"{start}{'; '.join(problems)} (a {cls.__name__} has {', '.join(known)})")
    read = {name: _read(hints[name], value, f"{start}{name}") for name, value in data.items()}
    try:
        return cls(**read)
    except InputError as error:  # they do not go together
        raise StorageError(f"{start}{error}") from error


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _read(kind: Any, value: Any, where: str) -> Any:
    """A plain value as the annotated type ``kind``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return from_plain(kind, value, where)  # type: ignore[arg-type]  # no instance: it is an annotation
    if origin in (Union, UnionType):
        return _read_optional(arguments, value, where)
    if origin is Literal:
        return _expect(value in arguments, value, where, f"one of {', '.join(map(repr, arguments))}")
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    if origin is Mapping:
        _expect(isinstance(value, Mapping), value, where, "a mapping")
        return {
            _key(arguments[0], key, where): _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()
        }
    if kind is Path:
        return Path(_expect(isinstance(value, str), value, where, "a path as text"))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    exact = isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)
    return _expect(
        exact, value, where, {str: "text", int: "a whole number", float: "a number"}.get(kind, kind.__name__)
    )


def _read_optional(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and NoneType in arguments:
        return None
    (kind,) = (argument for argument in arguments if argument is not NoneType)
    return _read(kind, value, where)


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list | tuple), value, where, "a list")
    if arguments[-1] is Ellipsis:
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    _expect(len(value) == len(arguments), value, where, f"a list of {len(arguments)}")
    pairs = zip(arguments, value, strict=True)
    return tuple(_read(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(pairs))


def _key(kind: Any, key: Any, where: str) -> Any:
    """JSON's keys are text, whatever they were."""
    if kind is not int or isinstance(key, int):
        return key
    digits = str(key).removeprefix("-")
    _expect(digits.isdecimal() and len(digits) < 20, key, where, "whole numbers as keys")
    return int(key)


def _expect(holds: bool, value: Any, where: str, expected: str) -> Any:
    if not holds:
        raise StorageError(f"{where}: expected {expected}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def loaded(path: Path, read: Callable[[Path], Any]) -> Any:
    """The content of a file.

    Args:
        path: of the file.
        read: what reads it, such as :func:`~detfuse.files.plain.read_yaml`.

    Raises:
        StorageError: if it is missing or cannot be read.
    """
    try:
        return read(path)
    except FileNotFoundError:
        raise StorageError(f"{path} is missing") from None
    except InputError as error:
        raise StorageError(str(error)) from error
