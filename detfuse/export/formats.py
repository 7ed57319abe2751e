"""Writing an exported file: ONNX by the dynamo exporter, or torch's own archive of an exported program."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Literal, get_args

import torch
from torch._dynamo import config as tracing
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbols

from detfuse.export.deployed import INPUTS, OUTPUTS, Deployed
from detfuse.export.description import KEY, Description, ExportError
from detfuse.export.program import EXTRA_FILE
from detfuse.export.translations import translations

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
_OPSET = 18  # of ONNX; the exporter's own
_TRACED = (9, 10)  # odd however often it is halved: then no map that is made larger fits by chance, and all are cut


def format_of(path: Path) -> Format | None:
    """Which format a file has by its suffix; None if it is none of them."""
    return next((name for name in FORMATS if path.suffix.lower() == f".{name}"), None)


def program_of(deployed: Deployed, description: Description) -> ExportedProgram:
    """The graph of a detector, for any number of images of any size that the description's padding can have.

    An exact size (``resize.size``) is the only one; else height and width are free, down to one divisor.

    Raises:
        ExportError: if a part of the detector computes with sizes in a way that holds for one of them only.
    """
    divisor, exact = description.divisor, description.resize.size
    size = exact or (_TRACED[0] * divisor, _TRACED[1] * divisor)
    free = {} if exact else {2: divisor * Dim("rows", min=1), 3: divisor * Dim("columns", min=1)}
    batch = Dim("batch", min=1)
    example = torch.zeros(2, 3, *size, dtype=torch.uint8), torch.tensor([size, size], dtype=torch.int64)
    try:
        # without the first the tracer takes a side of 1 for another kind of size; what the second would keep of every
        # operator is hardly ever asked for again where sizes are free, and takes a quarter of the time
        oblivious = symbols.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]  # torch adds it
        unkept = tracing.patch(fake_tensor_cache_enabled=False)
        with torch.no_grad(), oblivious, unkept:
            program = torch.export.export(deployed, example, dynamic_shapes=({0: batch} | free, {0: batch}))
    except RuntimeError as error:  # the base of all that it says of sizes
        reason = next((line for line in str(error).splitlines() if "specialized" in line), str(error))
        raise ExportError(
            f"the detector's graph would hold for images of one size only ({reason.strip(' -')[:300]}): a part of it "
            "computes a number from a size, or chooses by one. Let it take sizes from the maps' shapes; or train with "
            "data.transform.size=[HEIGHT,WIDTH], whose file needs no other size"
        ) from error
    # what the tracer assumed of sizes decides the layout of maps of one cell in memory, and would refuse small images
    program._guards_code = []
    return program


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
