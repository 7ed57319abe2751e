"""Writing an exported file: ONNX by the dynamo exporter, or torch's own archive of an exported program."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Literal, get_args

import torch
from torch.export import ExportedProgram

from detfuse.export.deployed import INPUTS, OUTPUTS, Deployed, place
from detfuse.export.description import KEY, Description, ExportError
from detfuse.export.program import EXTRA_FILE
from detfuse.export.translations import translations
from detfuse.structures import Size

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
_OPSET = 18  # of ONNX; the exporter's own


def format_of(path: Path) -> Format | None:
    """Which format a file has by its suffix; None if it is none of them."""
    return next((name for name in FORMATS if path.suffix.lower() == f".{name}"), None)


def program_of(deployed: Deployed, size: Size) -> ExportedProgram:
    """The graph of a detector for images padded to ``size``; every shape in it is fixed."""
    with torch.no_grad():
        return torch.export.export(deployed, place(torch.zeros(3, *size, dtype=torch.uint8), size))


@contextmanager
def written(path: Path, kind: Format, program: ExportedProgram, description: Description) -> Iterator[Path]:
    """Write a file that counts only if the body accepts it.

    Args:
        path: of the file, whose folder is made if need be.
        kind: the format.
        program: what to write, see :func:`program_of`.
        description: stored inside.

    Yields:
        The file under a provisional name with the same suffix: to be read and checked. After the body it is renamed to
        ``path``; if the body raises, it is deleted, and an older file at ``path`` stays.

    Raises:
        ExportError: if the packages for the format are not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".part-{path.name}")
    try:
        if kind == "onnx":
            _write_onnx(draft, program, description)
        else:
            _write_pt2(draft, program, description)
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _write_pt2(path: Path, program: ExportedProgram, description: Description) -> None:
    """Without the inputs that it was traced with: torch pickles them, and whoever opens the file would run that."""
    bare = copy(program)
    bare._example_inputs = None
    torch.export.save(bare, path, extra_files={EXTRA_FILE: description.to_json()})


def _write_onnx(path: Path, program: ExportedProgram, description: Description) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  the exporter needs it, and says so less plainly
    except ImportError as error:
        raise missing("onnx", error) from error
    with _quiet():
        converted = torch.onnx.export(
            program,
            input_names=INPUTS,
            output_names=OUTPUTS,
            opset_version=_OPSET,
            dynamo=True,
            custom_translation_table=translations(),
            verbose=False,
        )
    assert converted is not None
    converted.model.metadata_props[KEY] = description.to_json()
    converted.save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the optimiser's remarks on what it leaves alone, which concern nobody."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def missing(what: str, error: ImportError) -> ExportError:
    """The error of a package that is not installed."""
    return ExportError(f"{what}: the package {error.name} is not installed; pip install 'detfuse[export]' brings it")
