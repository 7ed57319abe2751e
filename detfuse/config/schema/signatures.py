"""Signatures read from source, without importing: what a ``_target_`` takes is the schema of its YAML.

Importing the targets would import torch, which takes seconds; reading them takes milliseconds.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from detfuse.errors import InputError

PACKAGE = __name__.partition(".")[0]
"""The one that this check belongs to: its parts are found wherever it runs from."""
_HOME = Path(__file__).resolve().parents[__name__.count(".")]
Definition = ast.ClassDef | ast.FunctionDef | ast.expr


class UnknownTargetError(InputError):
    """A ``_target_`` names nothing that exists; the message says what does."""

    def __init__(self, message: str, options: tuple[str, ...] = (), wrong: str = "") -> None:
        super().__init__(message)
        self.options = options
        self.wrong = wrong


@dataclass(frozen=True)
class Annotation:
    """A type as written, with the module that gives its names a meaning."""

    expr: ast.expr
    module: Module

    def __str__(self) -> str:
        return ast.unparse(self.expr).replace("'", "")


@dataclass(frozen=True)
class Parameter:
    """One argument of a target.

    Attributes:
        name: as in the YAML.
        annotation: its type, None if not annotated.
        required: it has no default.
        wired: it stands before ``*``: it is handed over in code, users may not set it.
    """

    name: str
    annotation: Annotation | None
    required: bool
    wired: bool


@dataclass(frozen=True)
class Signature:
    """The arguments of a target; ``open`` if it takes any keyword besides."""

    parameters: dict[str, Parameter]
    open: bool

    @property
    def configured(self) -> list[str]:
        """Names that a YAML may set."""
        return [name for name, parameter in self.parameters.items() if not parameter.wired]


class Module:
    """A parsed source file: its top-level definitions and where its imported names come from."""

    def __init__(self, name: str, path: Path, roots: tuple[Path, ...]) -> None:
        self.name = name
        self.roots = roots
        self.definitions: dict[str, Definition] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        self._package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self._read(ast.parse(path.read_text(encoding="utf-8"), str(path)).body)

    def _read(self, body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.definitions[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self.definitions[node.target.id] = node.value
            elif isinstance(node, ast.ImportFrom):
                origin = self._absolute(node)
                self.imports.update({alias.asname or alias.name: (origin, alias.name) for alias in node.names})
            elif isinstance(node, ast.If | ast.Try):
                self._read(node.body)
                self._read(node.orelse)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self._package.split(".")
        base = parts[: len(parts) - node.level + 1]
        return ".".join([*base, node.module] if node.module else base)

    def find(self, name: str) -> tuple[Definition, Module] | None:
        """The definition behind a name, through imports; None if it lies outside what can be read."""
        if name in self.definitions:
            return self.definitions[name], self
        if name in self.imports:
            origin, original = self.imports[name]
            if not _is_local(origin, self.roots):
                return None  # reading torch's or typing's source would cost more than it tells
            module = read_module(origin, self.roots)
            return module.find(original) if module and module is not self else None
        return None


@cache
def read_module(name: str, roots: tuple[Path, ...] = ()) -> Module | None:
    """Parse a module found by its path; None if there is no such source file.

    Args:
        name: dotted name.
        roots: folders to search besides ``sys.path``, first.
    """
    if not name:
        return None
    path = _locate(name, roots)
    return Module(name, path, roots) if path else None


def _locate(name: str, roots: tuple[Path, ...]) -> Path | None:
    places = (_HOME,) if name.split(".")[0] == PACKAGE else (*roots, *(Path(entry) for entry in sys.path if entry))
    relative = Path(*name.split("."))
    for place in places:
        for path in (place / relative / "__init__.py", place / relative.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def signature_of(target: str, roots: tuple[Path, ...] = ()) -> Signature | None:
    """The signature of a class, dataclass or function by its dotted name.

    Args:
        target: such as ``package.module.Class``.
        roots: folders to search for private modules.

    Returns:
        None where the source cannot tell (compiled or re-exported in other libraries): nothing to check then.

    Raises:
        UnknownTargetError: if the module or the name does not exist.
    """
    module_name, _, name = target.rpartition(".")
    module = read_module(module_name, roots)
    if module is None:
        top = module_name.split(".")[0]
        if top and top != PACKAGE and _locate(top, roots) is not None and _locate_any(module_name, roots):
            return None
        raise UnknownTargetError(f"there is no module {module_name or target!r}")
    found = module.find(name)
    if found is None:
        if name in module.imports or "*" in module.imports or not _is_local(module_name, roots):
            return None
        options = tuple(n for n, d in module.definitions.items() if not isinstance(d, ast.expr) and n[0] != "_")
        raise UnknownTargetError(f"{module_name} defines no {name}", options, name)
    definition, where = found
    if isinstance(definition, ast.FunctionDef):
        return _of_function(definition, where, bound=False)
    if isinstance(definition, ast.ClassDef):
        return _of_class(definition, where)
    return None


def _is_local(module_name: str, roots: tuple[Path, ...]) -> bool:
    """Whether a module is our own or the user's: others define names in ways that source does not show."""
    if module_name.split(".")[0] == PACKAGE:
        return True
    path = _locate(module_name, roots)
    return path is not None and any(path.is_relative_to(root) for root in roots)


def _locate_any(module_name: str, roots: tuple[Path, ...]) -> bool:
    """Whether a class (for its methods) or a compiled module may stand behind a dotted name."""
    parent, _, last = module_name.rpartition(".")
    module = read_module(parent, roots) if parent else None
    return module is not None and (last in module.definitions or not _is_local(parent, roots))


def _of_class(node: ast.ClassDef, module: Module) -> Signature:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _of_function(item, module, bound=True)
    bases = [_base(base, module) for base in node.bases]
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        parameters: dict[str, Parameter] = {}
        for base in bases:
            parameters.update(base.parameters if base else {})
        return Signature(parameters | _fields(node, module), open=False)
    return next((base for base in bases if base and base.parameters), Signature({}, open=False))


def _base(expr: ast.expr, module: Module) -> Signature | None:
    if not isinstance(expr, ast.Name):
        return None
    found = module.find(expr.id)
    return _of_class(found[0], found[1]) if found and isinstance(found[0], ast.ClassDef) else None


def _fields(node: ast.ClassDef, module: Module) -> dict[str, Parameter]:
    items = [i for i in node.body if isinstance(i, ast.AnnAssign) and isinstance(i.target, ast.Name)]
    types = [ast.unparse(item.annotation) for item in items]
    marker = next((index for index, type_ in enumerate(types) if type_.endswith("KW_ONLY")), 0)
    fields: dict[str, Parameter] = {}
    for index, item in enumerate(items):
        if types[index].endswith("KW_ONLY") or types[index].startswith("ClassVar") or _is_hidden_field(item.value):
            continue
        assert isinstance(item.target, ast.Name)
        name = item.target.id
        required = item.value is None
        fields[name] = Parameter(name, Annotation(item.annotation, module), required, wired=index < marker)
    return fields


def _is_hidden_field(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Call) and any(
        keyword.arg == "init" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        for keyword in value.keywords
    )


def _of_function(node: ast.FunctionDef, module: Module, *, bound: bool) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args][1 if bound else 0 :]
    without_default = len(positional) - min(len(arguments.defaults), len(positional))
    parameters: dict[str, Parameter] = {}
    for index, argument in enumerate(positional):
        required = index < without_default
        # Where a function has no `*`, its defaults mark what may be configured.
        wired = required or bool(arguments.kwonlyargs)
        parameters[argument.arg] = Parameter(argument.arg, _annotation(argument, module), required, wired)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        annotation = _annotation(argument, module)
        parameters[argument.arg] = Parameter(argument.arg, annotation, required=default is None, wired=False)
    return Signature(parameters, open=arguments.kwarg is not None)


def _annotation(argument: ast.arg, module: Module) -> Annotation | None:
    return Annotation(argument.annotation, module) if argument.annotation else None
