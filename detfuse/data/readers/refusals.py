"""Records that cannot be used, gathered while a file is gone through, so that all of them are told together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from detfuse.data.index import DataError

_SHOWN = 5  # records that a message names
_NOT_UNDERSTOOD = "cannot be understood"

T = TypeVar("T")
R = TypeVar("R")


class Refusals:
    """What was refused of one data set.

    Args:
        source: the annotations, named in front of each record.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._records: dict[str, list[str]] = {}
        self._first: list[tuple[str, str]] = []  # where, unless the record itself says it, and what

    def add(self, record: str, told: str, problem: str = "") -> None:
        """Note a record.

        Args:
            record: such as ``annotation 11``.
            told: what is wrong with it, what was expected, and what to do.
            problem: the same in words that fit all records that have it; ``told``, if it does.
        """
        self._records.setdefault(problem or told, []).append(record)
        if len(self._first) < _SHOWN:
            self._first.append((f"{self.source}: ", f"{record}: {told}"))

    def add_all(
        self, rows: Iterable[int], name: Callable[[int], str], told: Callable[[int], str], problem: str
    ) -> None:
        """Note records by their rows, of which there may be very many."""
        for row in rows:
            self.add(name(row), told(row) if len(self._first) < _SHOWN else "", problem)

    def each(self, make: Callable[[T], R], given: Iterable[T]) -> list[R]:
        """What becomes of each of some files, lines or elements, without those that are refused.

        Args:
            make: reads one; a DataError of its names the file and the place.
            given: all of them.
        """
        made = []
        for one in given:
            try:
                made.append(make(one))
            except DataError as error:
                self._records.setdefault(_NOT_UNDERSTOOD, []).append(str(error))
                if len(self._first) < _SHOWN:
                    self._first.append(("", str(error)))
        return made

    def settle(self) -> None:
        """End the reading if anything was refused.

        Raises:
            DataError: with the first record, the number of all, and the next ones.
        """
        count = sum(map(len, self._records.values()))
        if not count:
            return
        message = "".join(self._first[0])
        if count > 1:
            more = "1 more record" if count == 2 else f"{count - 1:,} more records"
            rest = [told for _, told in self._first[1:]] + ["..."] * (count > len(self._first))
            message += f"\nand {more} that cannot be used:\n  " + "\n  ".join(rest)
        raise DataError(message, {f"{self.source}: {problem}": names for problem, names in self._records.items()})
