"""The laboratory's records as files: plain containers there and back, checked against the dataclasses.

``to_plain`` and ``from_plain`` follow the type annotations, so a record needs no code of its own here. Files are strict
JSON (the plan is YAML, which people read) and are written at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from detfuse.ablation.records import Comparison, Cost, Plan, Run, Score
from detfuse.errors import InputError
from detfuse.files import write_json, write_text

PLAN = "plan.yaml"
COMPARISON = "comparison.json"
STATE = "state.json"
COST = "cost.json"

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
        StorageError: for missing and unknown keys and values of another type.
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
    return cls(**{name: _read(hints[name], value, f"{start}{name}") for name, value in data.items()})


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
    _expect(str(key).removeprefix("-").isdecimal(), key, where, "whole numbers as keys")
    return int(key)


def _expect(holds: bool, value: Any, where: str, expected: str) -> Any:
    if not holds:
        raise StorageError(f"{where}: expected {expected}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---- the files of an ablation's folder


def write_plan(folder: Path, plan: Plan) -> None:
    """``plan.yaml``."""
    write_text(folder / PLAN, plan_yaml(plan))


def plan_yaml(plan: Plan) -> str:
    """A plan as YAML, a line for what fits into one."""
    text: str = yaml.safe_dump(to_plain(plan), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return text


def read_plan(folder: Path) -> Plan:
    """Inverse of :func:`write_plan`.

    Raises:
        StorageError: if the file is missing or is no plan.
    """
    return from_plain(Plan, loaded(folder / PLAN, yaml.safe_load), str(folder / PLAN))


def write_comparison(folder: Path, scores: Sequence[Score], comparisons: Sequence[Comparison]) -> None:
    """``comparison.json``: all that the statistics say."""
    write_json(folder / COMPARISON, {"scores": to_plain(scores), "comparisons": to_plain(comparisons)})


def read_comparison(folder: Path) -> tuple[list[Score], list[Comparison]]:
    """Inverse of :func:`write_comparison`.

    Raises:
        StorageError: if the file is missing or holds something else.
    """
    path = folder / COMPARISON
    content = loaded(path, json.loads)
    if not isinstance(content, Mapping) or not all(isinstance(content.get(k), list) for k in ("scores", "comparisons")):
        raise StorageError(f"{path}: expected the lists 'scores' and 'comparisons'")
    scores = [from_plain(Score, row, f"{path}: scores[{i}]") for i, row in enumerate(content["scores"])]
    rows = enumerate(content["comparisons"])
    return scores, [from_plain(Comparison, row, f"{path}: comparisons[{i}]") for i, row in rows]


def write_run(run: Run) -> None:
    """``state.json`` in the run's folder; it does not say where that lies, so that an ablation can be moved."""
    write_json(run.folder / STATE, {key: value for key, value in to_plain(run).items() if key != "folder"})


def read_run(folder: Path) -> Run:
    """The run of a run folder.

    Raises:
        StorageError: if its state.json is missing or is none.
    """
    path = folder / STATE
    content = loaded(path, json.loads)
    if isinstance(content, Mapping):
        content = {**content, "folder": str(folder)}
    return from_plain(Run, content, str(path))


def write_cost(folder: Path, cost: Cost) -> None:
    """``cost.json`` of a run folder."""
    write_json(folder / COST, to_plain(cost))


def read_cost(folder: Path) -> Cost:
    """Inverse of :func:`write_cost`.

    Raises:
        StorageError: if the file is missing or is none.
    """
    return from_plain(Cost, loaded(folder / COST, json.loads), str(folder / COST))


def loaded(path: Path, parse: Callable[[str], Any]) -> Any:
    """The content of a file.

    Raises:
        StorageError: if it is missing or cannot be parsed.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{path} is missing") from None
    except (ValueError, yaml.YAMLError) as error:
        raise StorageError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
