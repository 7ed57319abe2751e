"""Weights that start from their name and the seed, whatever else is drawn before them.

A generator that is seeded once gives every later module other weights as soon as an earlier one differs, so two
detectors that share a module would not start it from the same values. Here every random draw has a seed of its own,
made from the run's seed and from the name of the parameter (or buffer) that the draw ends up in. Two parameters of the
same name, shape and initialiser are then equal at the start in any two detectors.

A draw does not know its name: it happens before the tensor has one. So everything is built twice::

    the constructor                          first, watched                  then, replayed
    self.lateral = nn.Conv2d(8, 4, 1)        draw 0 ends up in lateral.weight   seeded by "<seed>/neck/lateral.weight/0"
                                             draw 1 ends up in lateral.bias     seeded by "<seed>/neck/lateral.bias/0"
    nn.init.xavier_uniform_(lateral.weight)  draw 2 overwrites lateral.weight   seeded by "<seed>/neck/lateral.weight/0"
    nn.init.zeros_(lateral.bias)             nothing is drawn                   zeros again

While it is watched, every operation is intercepted (``TorchDispatchMode``): what is computed from a drawn number
carries the draw along, until the storage of a named tensor has it. When it is replayed, torch's generator is seeded
before every draw. That takes a module that is the same both times, which is checked.

To draw takes most of the time of a constructor. So a large tensor is drawn in part while it is only watched, and what
was written over before anything read it, as a library's default is by the initialiser of its model, is not drawn again:
to build a large model twice takes hardly longer than once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detfuse.errors import UserError

T = TypeVar("T")
Key = tuple[str, int]
"""Name of a parameter, and the number of the draw within it."""

_FEW = 2**16
"""So many numbers are drawn of a tensor that is only watched; the rest of it has them again, in other orders."""

_TURN = 7919
"""By so many the order turns, a prime: rows that were equal would make a matrix singular, which may be inverted."""

_OVERWRITES = (torch.ops.aten.copy_.default, torch.ops.aten.fill_.Scalar, torch.ops.aten.zero_.default)


class NotRepeatableError(UserError, RuntimeError):
    """A module whose start cannot follow from its arguments and the seed alone."""


def initialised(make: Callable[[], T], seed: int, part: str) -> T:
    """What ``make`` makes, every random start drawn by its name.

    It is made twice: once to see which draw ends up in which parameter, once with a seed for each draw. A parameter is
    known by what its *last* initialiser draws, so that a library's default before it changes nothing. A module whose
    parts have moved may say in ``former_name(name)`` by which name they start. Constants and weights that are read from
    a file stay as they are. Afterwards torch's generator is in a state that depends on
    ``seed`` and ``part`` alone.

    Args:
        make: builds a module on the CPU with the same draws each time; on the meta device it is called once.
        seed: of the run.
        part: name of the module in the whole, such as ``neck``; parameters are known as ``neck.blocks.p3.0.weight``.

    Raises:
        NotRepeatableError: if it is not the same the second time, or has layers without weights yet.
    """
    if torch.get_default_device().type == "meta":  # no numbers, so no start
        return make()
    _seed(seed, part)
    with _Watch() as watch:
        first = make()
    _require_weights(first, part)
    keys, shapes, constants = watch.keys(first), _shapes(first), watch.constants(first)
    del first
    _seed(seed, part)
    with _Replay(seed, part, keys, watch.for_nothing) as replay:
        made = make()
    difference = _other_draws(keys, watch.drawn, replay.drawn) or _other_shapes(shapes, _shapes(made))
    difference = difference or _other_numbers(constants, made)
    if difference:
        raise NotRepeatableError(
            f"{part}: built twice with the same arguments it {difference}. So {type(made).__name__} cannot start from "
            "names and the seed, and runs under one seed could not be compared. Its constructor must depend on its "
            "arguments alone: no clock, no counter or cache that outlives it, random numbers of torch only (none of "
            "random or numpy)"
        )
    _seed(seed, part)
    return made


def _require_weights(module: Any, part: str) -> None:
    """Refuse layers whose weights are made by their first forward."""
    if lazy := [name for name, tensor in _named(module) if is_lazy(tensor)]:
        raise NotRepeatableError(
            f"{part}: {', '.join(lazy)} of {type(module).__name__} would be drawn in forward, where weights have no "
            "seed and no optimizer. Take the layer that is told its sizes: a neck and a head find the channels of "
            "their inputs in in_spec.channels"
        )


def _named(module: Any) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _named(module)}


def _other_draws(keys: Sequence[Key], before: Sequence[str], now: Sequence[str]) -> str:
    """Where the draws of two times part; empty if they do not."""
    if before == now:
        return ""
    at = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
    name = next((f", at or after {name}" for name, _ in [*keys[at:], *reversed(keys)] if name), "")
    return f"draws different random numbers ({len(before)} and {len(now)} draws{name})"


def _other_shapes(before: Mapping[str, tuple[int, ...]], now: Mapping[str, tuple[int, ...]]) -> str:
    other = (name for name in {**before, **now} if before.get(name) != now.get(name))
    return next((f"has {n} of shape {before.get(n, 'none')} and {now.get(n, 'none')}" for n in other), "")


def _other_numbers(constants: Mapping[str, Tensor], module: Any) -> str:
    other = (name for name, value in constants.items() if not torch.equal(value, module.get_parameter(name)))
    return next((f"has different numbers in {name}, which torch did not draw" for name in other), "")


class _Watch(TorchDispatchMode):
    """Follows random numbers from where they are drawn to all tensors that are computed from them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.drawn: list[str] = []
        self.for_nothing: set[int] = set()  # draws that were written over before anything read them
        self._unread: dict[StorageWeakRef, int] = {}  # the last draw that filled it
        self._wrote_all: list[bool] = []
        self._reached: list[list[StorageWeakRef]] = []  # per draw, in order of time, where its numbers went
        self._sources: dict[StorageWeakRef, set[int]] = {}
        self._overwritten: set[StorageWeakRef] = set()  # as a whole, by what is computed from no draw

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        draws, fills, given = _draws(func, args, kwargs), _fills(func, args), kwargs or {}
        result = _drawn_in_part(func, *args, **given) if draws and fills else func(*args, **given)
        sources: set[int] = set()
        for tensor in _tensors((args, kwargs)):
            sources |= self._sources.get(_storage(tensor), set())
        for tensor in _tensors((args[1:] if fills else args, kwargs)):
            self._unread.pop(_storage(tensor), None)
        if fills and (before := self._unread.pop(_storage(args[0]), None)) is not None:
            self.for_nothing.add(before)
        written = _tensors(result)
        if draws:
            if fills:
                self._unread[_storage(args[0])] = len(self.drawn)
            sources.add(len(self.drawn))
            self.drawn.append(str(func))
            self._wrote_all.append(all(_is_whole(tensor) for tensor in written))
            self._reached.append([])
        if fills and not draws and not any(map(self._has_draw, _tensors(args[1:]))):
            self._overwritten.add(_storage(args[0]))
        elif sources:
            self._overwritten.difference_update(map(_storage, written))
        if sources:
            for storage in map(_storage, written):
                known = self._sources.setdefault(storage, set())
                for source in sources - known:
                    self._reached[source].append(storage)
                known |= sources
        return result

    def _has_draw(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        return storage in self._sources and storage not in self._overwritten

    def constants(self, module: Any) -> dict[str, Tensor]:
        """Parameters that have nothing of any draw, by name."""
        return {name: value.detach() for name, value in module.named_parameters() if not self._has_draw(value)}

    def keys(self, module: Any) -> list[Key]:
        """What each draw is known by: the first named tensor that it reached; ``""`` if it reached none."""
        names: dict[StorageWeakRef, str] = {}
        former_name = getattr(module, "former_name", str)
        for name, tensor in _named(module):
            names.setdefault(_storage(tensor), former_name(name))
        counts: dict[str, int] = {}
        keys = []
        for reached, wrote_all in zip(self._reached, self._wrote_all, strict=True):
            found = next((storage for storage in reached if storage in names), None)
            name = "" if found is None else names[found]
            # a draw that overwrites a whole parameter makes what was drawn for it before irrelevant
            begins = found is not None and found == reached[0] and wrote_all
            number = 0 if begins else counts.get(name, -1) + 1
            counts[name] = number
            keys.append((name, number))
        return keys


class _Replay(TorchDispatchMode):  # type: ignore[no-untyped-call]  # likewise
    """Seeds the generator before every draw, and leaves out those that are for nothing."""

    def __init__(self, seed: int, part: str, keys: Sequence[Key], for_nothing: Set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.drawn: list[str] = []
        self._seed, self._part, self._keys, self._for_nothing = seed, part, keys, for_nothing

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if _draws(func, args, kwargs):
            if len(self.drawn) < len(self._keys):
                name, number = self._keys[len(self.drawn)]
                _seed(self._seed, self._part, name, str(number))
            self.drawn.append(str(func))
            if len(self.drawn) - 1 in self._for_nothing and _fills(func, args):
                return args[0]
        return func(*args, **(kwargs or {}))


def _seed(seed: int, *words: str) -> None:
    digest = hashlib.sha256("/".join((str(seed), *words)).encode()).digest()
    # not torch.manual_seed: it reaches out to every accelerator, and weights are drawn on the CPU
    torch.default_generator.manual_seed(int.from_bytes(digest[:4], "little"))


def _draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator draws numbers; on the meta device, where backbones look what a model is like, are none."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    devices = [tensor.device for tensor in _tensors(args)] or [torch.device((kwargs or {}).get("device") or "cpu")]
    return all(device.type != "meta" for device in devices)


def _fills(func: Any, args: Any) -> bool:
    """Whether an operator writes all numbers of its first argument, whatever they were."""
    drawn = torch.Tag.nondeterministic_seeded in func.tags and func._schema.name.endswith("_")
    return (func in _OVERWRITES or (drawn and not _tensors(args[1:]))) and _is_whole(args[0])


def _drawn_in_part(func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What fills a tensor with random numbers, and draws only the first of a large one."""
    if tensor.numel() <= _FEW or not tensor.is_contiguous():
        filled: Tensor = func(tensor, *args, **kwargs)
        return filled
    numbers = tensor.view(-1)
    func(numbers[:_FEW], *args, **kwargs)
    for turn, start in enumerate(range(_FEW, len(numbers), _FEW), 1):
        rest = numbers[start : start + _FEW]
        rest.copy_(numbers[:_FEW].roll(_TURN * turn)[: len(rest)])
    return tensor


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> StorageWeakRef:
    # weak: nothing is kept in memory, and yet no other storage gets its address as long as the reference lives
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # likewise


def _is_whole(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
