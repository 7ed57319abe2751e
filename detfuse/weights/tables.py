"""Tables between the names of weights in another library and in a detector of ours, read in both directions.

A row says under which name a module, or a single weight, stands there and here, and what happens to its numbers on the
way. What a table does not know is told, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Conversion(NamedTuple):
    """What happens to the numbers of a weight, in each direction.

    Attributes:
        to_ours: theirs to ours.
        to_theirs: inverse; numbers that nobody reads may be made up.
    """

    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


class NameRow(NamedTuple):
    """One row of a table.

    Attributes:
        theirs: name there; one that ends in a dot stands for all that begins with it.
        ours: name here, likewise.
        conversion: of the numbers; None leaves them.
    """

    theirs: str
    ours: str
    conversion: Conversion | None = None


@dataclass(frozen=True)
class NameTable:
    """What a library's detector is called here.

    Attributes:
        model: its name in the library.
        rows: of several that fit a name, the one with the longest pattern counts.
        former: their names of other versions -> their names of today, likewise by beginnings.
    """

    model: str
    rows: Sequence[NameRow]
    former: Mapping[str, str]

    def to_ours(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """A state dict under our names, and theirs that the table does not know."""
        found: dict[str, Tensor] = {}
        unknown = []
        patterns = self._by_theirs
        for key, value in state.items():
            name = self._of_today(key)
            begins = _longest(name, patterns)
            if begins is None:
                unknown.append(key)
                continue
            row = patterns[begins]
            found[row.ours + name[len(begins) :]] = row.conversion.to_ours(value) if row.conversion else value
        return found, unknown

    def to_theirs(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Inverse of :meth:`to_ours`: a state dict under their names, and ours that the table does not know."""
        found: dict[str, Tensor] = {}
        unknown = []
        patterns = {row.ours: row for row in self.rows}
        for key, value in state.items():
            begins = _longest(key, patterns)
            if begins is None:
                unknown.append(key)
                continue
            row = patterns[begins]
            found[row.theirs + key[len(begins) :]] = row.conversion.to_theirs(value) if row.conversion else value
        return found, unknown

    def knows(self, name: str) -> bool:
        """Whether a name of theirs has a row."""
        return _longest(self._of_today(name), self._by_theirs) is not None

    @cached_property
    def _by_theirs(self) -> dict[str, NameRow]:
        return {row.theirs: row for row in self.rows}

    def _of_today(self, name: str) -> str:
        begins = _longest(name, self.former)
        return name if begins is None else self.former[begins] + name[len(begins) :]


def _longest(name: str, patterns: Container[str]) -> str | None:
    """The longest pattern that a name has: the whole of it, or its beginning up to a dot."""
    begins = name
    while begins and begins not in patterns:
        begins = name[: name.rfind(".", 0, len(begins) - 1) + 1]
    return begins or None


def rows_after(count: int) -> Conversion:
    """Leave out the first rows, which their model never reads; on the way back they are zeros."""
    return Conversion(
        lambda value: value[count:],
        lambda value: torch.cat([value.new_zeros(count, *value.shape[1:]), value]),
    )
