"""What the rows of COCO's json form hold, checked; every message names the row."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detfuse.errors import InputError

Row = Mapping[str, Any]
Named = Callable[[int], str]
"""Position of a row -> what messages call it."""

SHOWN = 5  # how many offenders an error names


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a file.

    Raises:
        ValueError: naming the file, if it cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=object_hook)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of thousands of digits, too deep
        raise InputError(f"{path}: no JSON: {error}") from None


def value_of(row: Row, key: str, name: str) -> Any:
    """Refuses a row that is none, and one without the key."""
    try:
        return row[key]
    except KeyError:
        raise InputError(f"{name}: '{key}' is missing (it has {', '.join(map(str, row)) or 'nothing':.200})") from None
    except TypeError:
        raise InputError(f"{name}: expected an object, got {row!r:.60}") from None


def numbers_of(row: Row, key: str, value: Any, name: str) -> array[float]:
    """A row's box (x, y, width, height) and a number of the same row, given as ``value`` of ``key``."""
    box = value_of(row, "bbox", name)
    if not isinstance(box, Sequence) or len(box) != 4:
        raise InputError(f"{name}: bbox is {box!r:.60}, expected four numbers x, y, width, height")
    try:
        numbers = array("d", box)
    except (TypeError, ValueError, OverflowError):  # text, null, an integer of hundreds of digits
        raise InputError(f"{name}: bbox is {box!r:.60}, expected numbers") from None
    try:
        numbers.append(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: {key} is {value!r:.60}, expected numbers") from None
    return numbers


def check_boxes(boxes: NDArray[np.float64], named: Named) -> None:
    """Refuse (N, 4) xywh that are not finite or have a negative size."""
    bad = np.flatnonzero(~np.isfinite(boxes).all(1))
    if bad.size:
        raise InputError(
            f"{named(bad[0])}: bbox is {boxes[bad[0]].tolist()}, expected finite numbers ({bad.size} such boxes)"
        )
    bad = np.flatnonzero((boxes[:, 2:] < 0).any(1))
    if bad.size:
        raise InputError(
            f"{named(bad[0])}: bbox is {boxes[bad[0]].tolist()}, expected x, y, width, height with sizes of at "
            "least 0; are these corners (x1, y1, x2, y2)?"
        )


def positions_of(ids: Sequence[Any], known: Sequence[Any], what: str, named: Named) -> NDArray[np.int64]:
    """Position of each row's id in ``known``; refuses rows with others."""
    place = {value: i for i, value in enumerate(known)}
    unknown = [
        i
        for i, value in enumerate(ids)
        if not isinstance(value, Hashable) or isinstance(value, bool) or value not in place  # true is no 1
    ]
    if unknown:
        names = list(dict.fromkeys(repr(ids[i]) for i in unknown))
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        mixed = str(ids[unknown[0]]) in map(str, known)
        hint = "; the same id is written as text and as a number, use one kind" if mixed else ""
        raise InputError(
            f"{named(unknown[0])}: {what} id {', '.join(names[:SHOWN])}{more} is not in the ground truth "
            f"({len(unknown)} such rows; the ground truth has {len(known)} ids, such as {known[0]!r}){hint}"
        )
    return np.array([place[value] for value in ids], np.int64)
