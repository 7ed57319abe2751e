"""Arrays and plain data in one file, which is mapped into memory: all processes that open it share its pages.

The file is a digest of the rest, the length of a header of JSON, the header, and the arrays one behind the other.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detfuse.errors import InputError

_ALIGNED = 64  # bytes
_DIGEST = hashlib.sha256().digest_size


class ColumnsError(InputError):
    """A file that is not as it was written."""


def write_columns(path: Path, columns: Mapping[str, npt.NDArray[Any]], notes: Any) -> None:
    """Write arrays of numbers and whatever JSON can hold, at once: a reader sees the old file or the new one.

    Only the user may read it or write to it.

    Raises:
        OSError: if it cannot be written; what was begun is removed.
    """
    arrays = {name: np.ascontiguousarray(column) for name, column in columns.items()}
    shapes = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    header = json.dumps({"notes": notes, "columns": shapes}).encode()
    header += b" " * (-(_DIGEST + 8 + len(header)) % _ALIGNED)
    parts = [len(header).to_bytes(8, "little"), header]
    for array in arrays.values():
        parts += [array.tobytes(), bytes(-array.nbytes % _ALIGNED)]
    digest = hashlib.sha256()
    for each in parts:
        digest.update(each)
    handle, name = tempfile.mkstemp(".part", ".", path.parent)  # which only the user may read or write
    part = Path(name)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123  it is open already
            file.writelines([digest.digest(), *parts])
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_columns(path: Path) -> tuple[dict[str, npt.NDArray[Any]], Any]:
    """What :func:`write_columns` wrote: the arrays, which cannot be written to, and the rest.

    Raises:
        OSError: if the file cannot be opened.
        ColumnsError: if it is not as it was written.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        raise ColumnsError(f"{path}: damaged, it is not as it was written")
    start = _DIGEST + 8
    end = start + int.from_bytes(data[_DIGEST:start], "little")
    header = json.loads(bytes(data[start:end]))
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, (kind, shape) in header["columns"].items():
        array = np.frombuffer(data, kind, math.prod(shape), end).reshape(shape)
        arrays[name] = array
        end += array.nbytes + -array.nbytes % _ALIGNED
    return arrays, header["notes"]
