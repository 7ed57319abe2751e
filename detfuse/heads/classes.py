"""How the classes lie in the weights of a head, so that they can be told apart by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable


class ClassRows(NamedTuple):
    """The first axis of a weight, of length ``groups * (background + K) * each``.

    Attributes:
        groups: such as the anchors of a cell, each of which has all classes.
        background: rows before those of the first class: 1 with a softmax, else 0.
        each: rows of a class: 4 where each has a box.
    """

    groups: int = 1
    background: int = 0
    each: int = 1


@runtime_checkable
class Classed(Protocol):
    """A head that says where its classes lie; of another, weights that depend on their number start anew."""

    def class_rows(self) -> Mapping[str, ClassRows]:
        """Beginning of the names of such weights in the head, up to a dot -> how the classes lie in them."""
        ...
