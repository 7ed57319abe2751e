"""What a ``.pt2`` may hold. torch trusts the file that it opens; here it is read first, as data.

torch unpickles sample inputs and whatever the file calls pickled, looks up the functions that it names in its own
modules, imports what its containers name, and runs sizes and guards as Python. A file of detfuse needs none of it: it
has tensors as bytes, calls of torch's own operators, and arithmetic on sizes.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detfuse.errors import InputError
from detfuse.export.description import KEY, ExportError
from detfuse.files.archive import require_stored

EXTRA_FILE = f"{KEY}.json"
_MODEL, _SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_MEMBER = re.compile(
    rf"{_MODEL}|{_SAMPLES}|{'|'.join(_CONFIGS)}|data/weights/weight_\d+|data/constants/tensor_\d+|extra/{EXTRA_FILE}|"
    r"archive_format|archive_version|version|byteorder|\.data/(version|serialization_id)|\.format_version"
)
_FUNCTION = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b|save\b|load\b)\w+\.\w+|torch\.ops\.(torchvision|prims)\.\w+\.\w+|"
    r"torch\.ops\.higher_order\.(wrap_with_autocast|wrap_with_set_grad_enabled|while_loop|cond)|torch\.sym_\w+|"
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|lt|le|gt|ge|eq|ne|and_|or_|not_|getitem)|"
    r"math\.(ceil|floor|trunc|sqrt)"
)
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_NAME, _WORD = re.compile(r"[A-Z]\w*|[suz]\w*\d+|math|torch|inf"), re.compile(r"\w*")
_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.keyword, ast.Subscript),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
)


def description_of(path: Path) -> str:
    """What a ``.pt2`` says about itself, once it is known that it can do no more than compute.

    Raises:
        ExportError: naming what it holds besides.
    """
    try:
        require_stored(path)
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].partition("/")[0]
            if f"{root}/extra/{EXTRA_FILE}" not in archive.namelist():
                raise InputError(f"{path}: was not exported by detfuse (it has no {KEY!r} in its metadata)")
            problem = next(_problems(archive, root), None)
            text = archive.read(f"{root}/extra/{EXTRA_FILE}").decode()
    except (LookupError, AttributeError, TypeError, ValueError, RecursionError) as error:
        reason = error if isinstance(error, InputError) else f"{path}: torch cannot read it ({error!r:.200})"
        raise ExportError(f"{reason}; export the checkpoint again") from error
    if problem:
        raise ExportError(f"{path}: refused, it {problem}, which detfuse does not write; export the checkpoint again")
    return text


def _problems(archive: zipfile.ZipFile, root: str) -> Iterator[str]:
    names = archive.namelist()
    for name in names:
        inside = name.removeprefix(f"{root}/")
        if inside == name or not _MEMBER.fullmatch(inside):
            yield f"has the entry {name!r:.100}"
    if len(set(names)) < len(names):
        yield "has two entries of one name"
    if archive.getinfo(f"{root}/{_SAMPLES}").file_size:
        yield f"has sample inputs ({_SAMPLES}), pickled"
    for config in _CONFIGS:
        for name, entry in json.loads(archive.read(f"{root}/{config}"))["config"].items():
            if entry["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
                yield f"has {name:.100} pickled"
    yield from _unsafe(json.loads(archive.read(f"{root}/{_MODEL}")))


def _unsafe(node: Any) -> Iterator[str]:
    """What of a graph would be looked up, imported or run, and is no arithmetic."""
    if isinstance(node, list):
        for item in node:
            yield from _unsafe(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("target", "as_operator") and not _FUNCTION.fullmatch(str(value)):
                yield f"calls {value!r:.100}"
            elif key == "as_custom_obj" or (key == "as_string" and not _WORD.fullmatch(str(value))):
                yield f"passes {value!r:.100}"
            elif key in ("in_spec", "out_spec") and value:
                yield from _foreign(json.loads(value))
            elif key == "expr_str":
                yield from _no_arithmetic(value)
            elif key in ("guards_code", "range_constraints"):
                for text in value:  # of a mapping, its keys
                    yield from _no_arithmetic(text)
            yield from _unsafe(value)


def _foreign(spec: Any) -> Iterator[str]:
    """Containers that are looked up or imported by name."""
    if isinstance(spec, list):
        for item in spec:
            yield from _foreign(item)
    elif isinstance(spec, dict):
        if spec.get("type") not in _CONTAINERS or spec.get("context") not in (None, "null", "[]", []):
            yield f"takes or returns {spec.get('type')!r:.100} of {spec.get('context')!r:.100}"
        yield from _foreign(spec.get("children_spec"))


def _no_arithmetic(text: str) -> Iterator[str]:
    allowed = "#" not in text and "\n" not in text and all(map(_is_arithmetic, ast.walk(ast.parse(text, mode="eval"))))
    if not allowed:
        yield f"computes {text!r:.100}"


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return _NAME.fullmatch(node.id) is not None
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        return node.attr == "size" or owner == "math" or (owner == "torch" and node.attr.startswith("sym_"))
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) or (
            isinstance(node.value, str) and _WORD.fullmatch(node.value) is not None
        )
    return isinstance(node, _ARITHMETIC)
