"""The range of a number as part of its type: said once, in the signature, and held everywhere.

``num_convs: Layers = 4`` tells the reader; the check of a configuration reads it from source, before torch is
imported; :func:`checked` holds it where the part is built, so that a notebook is told the same.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from detfuse.errors import InputError

LARGEST = 2**32 - 1
"""Of integers: no seed, size or count is larger."""
LARGEST_FLOAT = 3.4028234663852886e38
"""Of other numbers: above lies infinity, in the single precision that detectors compute in."""


@dataclass(frozen=True)
class Range:
    """Finite numbers within bounds, for ``Annotated[int, Range(at_least=1)]``; without bounds, all that are finite.

    Finite is what a detector can compute with: see :data:`LARGEST`. The bounds must be written as numbers, not as
    expressions: they are read from source.
    """

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    odd: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, Real) or too_large(value) or math.isnan(number := float(value)):
            return False
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
            and (not self.odd or number % 2 == 1)
        )

    def __str__(self) -> str:
        """In words that follow "must": ``be at least 1``, ``lie in 0..1 (1 excluded)``."""
        low = self.at_least if self.above is None else self.above
        high = self.at_most if self.below is None else self.below
        if low is not None and high is not None:
            excluded = [f"{bound}" for bound in (self.above, self.below) if bound is not None]
            return f"lie in {low}..{high}" + (f" ({' and '.join(excluded)} excluded)" if excluded else "")
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        listed = ["odd"] * self.odd + [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
        return f"be {' and '.join(listed) or 'finite'}".replace("above 0", "positive")


def too_large(value: object) -> str:
    """In words up to where numbers go, if a value lies beyond: whatever an argument is, it is not that."""
    if isinstance(value, Integral):
        return f"integers go to {LARGEST}" if abs(int(value)) > LARGEST else ""
    return f"numbers go to {LARGEST_FLOAT:.2g}" if isinstance(value, Real) and abs(float(value)) > LARGEST_FLOAT else ""


PositiveInt = Annotated[int, Range(at_least=1)]
NonNegativeInt = Annotated[int, Range(at_least=0)]
OddInt = Annotated[int, Range(at_least=1, odd=True)]
Seed = Annotated[int, Range(at_least=0, at_most=4294967295)]  # what NumPy's and Lightning's generators take

Level = Annotated[int, Range(at_least=1, at_most=16)]  # log2 of a stride
Levels = Annotated[int, Range(at_least=0, at_most=16)]  # how many
Layers = Annotated[int, Range(at_least=0, at_most=1000)]  # one after the other: more are a slip, and a hang
Repeats = Annotated[int, Range(at_least=1, at_most=1000)]

FiniteFloat = Annotated[float, Range()]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, at_most=1)]
PositiveFraction = Annotated[float, Range(above=0, at_most=1)]
FractionBelowOne = Annotated[float, Range(at_least=0, below=1)]
OpenFraction = Annotated[float, Range(above=0, below=1)]

Part = TypeVar("Part", bound=Callable[..., Any])


def checked(part: Part) -> Part:
    """A class or function that refuses numbers outside their ranges, and values that are none of a ``Literal``'s.

    Everything else about an argument is left to whoever reads it.

    Raises:
        InputError: when it is called, naming every wrong argument with what was expected.
    """
    if not isinstance(part, type):
        return cast("Part", _checking(part))
    made = cast("Any", part)
    made.__init__ = _checking(made.__init__)
    return part


def _checking(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)
    is_constructor = function.__name__ == "__init__"

    @functools.cache
    def hints() -> dict[str, Any]:
        return get_type_hints(function, include_extras=True)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # tells it better, with its own name
        wrong = [
            f"{name} must {_must(hints()[name], value)}, got {value!r}"
            for name, value in given.items()
            if name in hints() and not allows(hints()[name], value)
        ]
        if wrong:
            owner = type(args[0]).__name__ if is_constructor else function.__name__
            raise InputError(f"{owner}: {'; '.join(wrong)}")
        return function(*args, **kwargs)

    return call


def allows(hint: Any, value: Any) -> bool:
    """Whether the ranges and choices of a type take a value; a type that has none takes everything."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_is_a(option, value) and allows(option, value) for option in arguments)
    if hint is type(None):
        return value is None
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin is Annotated and isinstance(arguments[1], Range):
        return _is_number(value, arguments[0]) and value in arguments[1]
    if isinstance(origin, type) and issubclass(origin, Sequence) and isinstance(value, Sequence):
        fixed = origin is tuple and arguments[-1] is not Ellipsis
        if fixed and len(value) != len(arguments):
            return False
        items = arguments if fixed else [arguments[0]] * len(value)
        return all(allows(item, each) for item, each in zip(items, value, strict=True))
    return True


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)


def _is_a(option: Any, value: object) -> bool:
    """Whether a plain value may be of one type of a union: a number is no text, and no switch."""
    if option in (int, float):
        return not isinstance(value, str) and (_is_number(value, option) or not isinstance(value, Real))
    return option not in (bool, str) or isinstance(value, option) or not isinstance(value, str | Real)


def _must(hint: Any, value: Any) -> str:
    """What :func:`allows` asks for, in words that follow "must"; of a sequence, what each item must."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        options = [_must(option, value) for option in arguments]
        return " or ".join([options[0], *(option.removeprefix("be ") for option in options[1:])])
    if origin is Literal:
        *others, last = (str(choice) for choice in arguments)
        return f"be {', '.join(others)} or {last}" if others else f"be {last}"
    if origin is Annotated:
        is_no_integer = isinstance(value, str | float) and arguments[0] is int
        beyond = f" ({words})" if (words := too_large(value)) else ""
        return f"{arguments[1]}" + " (an integer)" * is_no_integer + beyond
    if isinstance(origin, type) and issubclass(origin, Sequence):
        fixed = origin is tuple and arguments[-1] is not Ellipsis and isinstance(value, Sequence)
        if fixed and len(value) != len(arguments):
            return f"have {len(arguments)} items"
        return _must(arguments[0], value)
    return f"be {'None' if hint is type(None) else getattr(hint, '__name__', hint)}"
