"""What a user can put right has one base; whatever else is raised is a bug and shows itself as one."""

from __future__ import annotations

import ast
import builtins
import errno
from pathlib import Path

import pytest

from detfuse.errors import InputError, UserError, explained

# What only a mistake of ours can reach, and the ends of a process.
_PROGRAMMING = {"AssertionError", "NotImplementedError", "SystemExit", "KeyboardInterrupt"}
_BUILTIN = {
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException) and not issubclass(kind, Warning)
}
# Where everything is caught: it is told as a bug, or it is a library without a base for its errors, or what is examined
# may be broken in any way and the rest is to be examined all the same.
_CATCH_ALL = {
    "cli/launch.py",
    "ablation/plan/arms.py",
    "export/exported.py",
    "data/doctor/checks.py",
    "data/doctor/looking.py",
    "data/doctor/reading.py",
}


@pytest.fixture(scope="module")
def sources(repository: Path) -> dict[str, list[ast.AST]]:
    root = repository / "detfuse"
    return {
        file.relative_to(root).as_posix(): list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        for file in sorted(root.rglob("*.py"))
    }


def _name(node: ast.expr | None) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def test_every_error_that_is_made_is_a_users_or_says_that_it_is_a_mistake_of_ours(
    sources: dict[str, list[ast.AST]],
) -> None:
    made = {
        f"{file}:{node.lineno}: {_name(node.func)}"
        for file, nodes in sources.items()
        for node in nodes
        if isinstance(node, ast.Call) and _name(node.func) in _BUILTIN - _PROGRAMMING
    }
    assert not made, "raise a UserError (InputError for an argument), or AssertionError for what cannot happen"


def test_every_kind_of_error_has_the_one_base(sources: dict[str, list[ast.AST]]) -> None:
    kinds = [node for nodes in sources.values() for node in nodes if isinstance(node, ast.ClassDef)]
    ours = {"UserError"}
    for _ in kinds:  # a kind may stand before its base
        ours |= {kind.name for kind in kinds if ours & {_name(base) for base in kind.bases}}
    errors = _BUILTIN - {"SystemExit"}  # an exit that was asked for is no error
    foreign = {kind.name for kind in kinds if errors & {_name(base) for base in kind.bases} and kind.name not in ours}
    assert foreign == set()
    assert {"InputError", "ConfigError", "DataError", "GraphError", "CheckpointError", "PlanError"} <= ours


def test_only_a_few_places_catch_everything(sources: dict[str, list[ast.AST]]) -> None:
    found = {
        file
        for file, nodes in sources.items()
        for node in nodes
        if isinstance(node, ast.ExceptHandler) and _name(node.type) in {"", "Exception", "BaseException"}
        if node.type is None or isinstance(node.type, ast.Name)
    }
    assert found <= _CATCH_ALL


def test_an_input_error_is_the_value_error_that_a_notebook_expects() -> None:
    with pytest.raises(ValueError, match="a word"):
        raise InputError("a word")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InputError("no such thing"), "no such thing"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "/data/x: permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "runs/x"), "runs/x: no such file"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), "data.loader.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "data.loader.batch_size"),
        (MemoryError(), "data.loader.batch_size"),
    ],
)
def test_what_the_user_can_put_right_is_explained(error: Exception, says: str) -> None:
    told = explained(error)
    assert isinstance(told, UserError)
    assert says in str(told)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("c7"),
        TypeError("f() got an unexpected keyword argument"),
        ValueError("not enough values to unpack"),
        AttributeError("x"),
        RuntimeError("x"),
        OSError("x"),
        ImportError("x"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", str(Path(ast.__file__).parent / "x.py")),
    ],
)
def test_a_bug_is_not_explained_away(error: Exception) -> None:
    if isinstance(error, FileNotFoundError):  # a file of the installation
        import detfuse

        error.filename = str(Path(detfuse.__file__).parent / "conf.yaml")
    assert explained(error) is None
