"""Whether a value from a YAML file fits a type annotation."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from detfuse.config.schema.signatures import Annotation, Module
from detfuse.ranges import Range

_SEQUENCES = {"list", "tuple", "set", "frozenset", "Sequence", "Iterable", "Collection", "List", "Tuple"}
_MAPPINGS = {"dict", "Mapping", "MutableMapping", "Dict"}


def fits(value: Any, annotation: Annotation) -> bool:
    """Whether a plain value (or a node with ``_target_``) may be given for an annotated argument.

    Integers pass for floats; None passes only where it is written; interpolations that are still unresolved pass.
    """
    if isinstance(value, str) and "${" in value:
        return True
    return _fits(value, annotation.expr, annotation.module)


def in_words(annotation: Annotation) -> str:
    """A type for messages, with its ranges and choices: ``int (at least 1) | None``, ``one of none, batch``."""
    return _in_words(annotation.expr, annotation.module)


def choices(annotation: Annotation) -> list[Any]:
    """The values of the ``Literal`` in an annotation, through aliases and unions."""
    return _choices(annotation.expr, annotation.module)


def _fits(value: Any, expr: ast.expr, module: Module) -> bool:
    if isinstance(expr, ast.Constant):
        if isinstance(expr.value, str):
            return _fits(value, ast.parse(expr.value, mode="eval").body, module)
        return expr.value is None and value is None
    if isinstance(expr, ast.BinOp):
        return _fits(value, expr.left, module) or _fits(value, expr.right, module)
    if isinstance(expr, ast.Subscript):
        return _fits_subscript(value, expr, module)
    return _fits_name(value, _name(expr), module)


def _fits_subscript(value: Any, expr: ast.Subscript, module: Module) -> bool:
    head = _name(expr.value)
    inner = expr.slice.elts if isinstance(expr.slice, ast.Tuple) else [expr.slice]
    if head == "Literal":
        return any(type(value) is type(choice) and value == choice for choice in _choices(expr, module))
    if head == "Optional":
        return value is None or _fits(value, inner[0], module)
    if head == "Union":
        return any(_fits(value, option, module) for option in inner)
    if head in {"Annotated", "Final"}:
        return _fits(value, inner[0], module) and all(value in limit for limit in _ranges(inner[1:]))
    if head in _SEQUENCES:
        return isinstance(value, list) and _fits_items(value, inner, module, fixed=head.lower() == "tuple")
    if head in _MAPPINGS:
        return isinstance(value, dict) and all(
            _fits(k, inner[0], module) and _fits(v, inner[1], module) for k, v in value.items()
        )
    return _fits_name(value, head, module)


def _fits_items(value: list[Any], inner: list[ast.expr], module: Module, *, fixed: bool) -> bool:
    last = inner[-1]
    repeated = isinstance(last, ast.Constant) and last.value is Ellipsis
    if fixed and not repeated:
        return len(value) == len(inner) and all(
            _fits(item, expr, module) for item, expr in zip(value, inner, strict=True)
        )
    return all(_fits(item, inner[0], module) for item in value)


def _fits_name(value: Any, name: str, module: Module) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    simple = {
        "Any": True,
        "object": True,
        "None": value is None,
        "bool": isinstance(value, bool),
        "int": is_number and isinstance(value, int),
        "float": is_number and value == value,  # NaN is never meant
        "str": isinstance(value, str),
        "Path": isinstance(value, str),
    }
    if name in simple:
        return simple[name]
    if name in _SEQUENCES:
        return isinstance(value, list)
    if name in _MAPPINGS:
        return isinstance(value, dict)
    found = module.find(name)
    if found is not None and isinstance(found[0], ast.expr):
        return _fits(value, found[0], found[1])  # an alias
    if found is not None and isinstance(found[0], ast.ClassDef):
        bases = [_name(base) for base in found[0].bases]
        if "TypedDict" in bases:
            return isinstance(value, dict)
    # A class, a factory: only a node that builds one will do.
    return isinstance(value, dict) and "_target_" in value


def _ranges(metadata: Sequence[ast.expr]) -> list[Range]:
    """What ``Range(...)`` in an ``Annotated`` says; where its bounds are no literals, the part itself holds it."""
    found = []
    for call in metadata:
        if isinstance(call, ast.Call) and _name(call.func) == Range.__name__:
            with suppress(ValueError, TypeError):
                found.append(Range(**{each.arg or "": ast.literal_eval(each.value) for each in call.keywords}))
    return found


def _in_words(expr: ast.expr, module: Module) -> str:
    if isinstance(expr, ast.BinOp):
        return f"{_in_words(expr.left, module)} | {_in_words(expr.right, module)}"
    if isinstance(expr, ast.Subscript):
        head = _name(expr.value)
        inner = expr.slice.elts if isinstance(expr.slice, ast.Tuple) else [expr.slice]
        if head == "Literal":
            return f"one of {', '.join(map(str, _choices(expr, module)))}"
        if head == "Annotated" and (limits := _ranges(inner[1:])):
            limit = f"{limits[0]}".removeprefix("be ").removeprefix("lie ").replace(" (", ", ").rstrip(")")
            return f"{_in_words(inner[0], module)} ({limit})"
        return f"{head}[{', '.join(_in_words(item, module) for item in inner)}]"
    found = module.find(expr.id) if isinstance(expr, ast.Name) else None
    if found is not None and isinstance(found[0], ast.Subscript) and _name(found[0].value) in {"Annotated", "Literal"}:
        return _in_words(found[0], found[1])  # an alias; others are known by their names
    return ast.unparse(expr).replace("'", "").replace("Ellipsis", "...")


def _choices(expr: ast.expr, module: Module) -> list[Any]:
    if isinstance(expr, ast.BinOp):
        return [*_choices(expr.left, module), *_choices(expr.right, module)]
    if isinstance(expr, ast.Subscript):
        inner = expr.slice.elts if isinstance(expr.slice, ast.Tuple) else [expr.slice]
        if _name(expr.value) == "Literal":
            return [item.value for item in inner if isinstance(item, ast.Constant)]
        return [choice for item in inner for choice in _choices(item, module)]
    if isinstance(expr, ast.Name):
        found = module.find(expr.id)
        if found is not None and isinstance(found[0], ast.expr):
            return _choices(found[0], found[1])
    return []


def _name(expr: ast.expr) -> str:
    if isinstance(expr, ast.Name):
        return expr.id
    return expr.attr if isinstance(expr, ast.Attribute) else ""
