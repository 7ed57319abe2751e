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
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detfuse.errors import UserError

T = TypeVar("T")
Key = tuple[str, int]
"""Name of a parameter, and the number of the draw within it."""


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
        make: builds a module on the CPU (or on the meta device) with the same draws each time.
        seed: of the run.
        part: name of the module in the whole, such as ``neck``; parameters are known as ``neck.blocks.p3.0.weight``.

    Raises:
        NotRepeatableError: if it is not the same the second time, or has layers without weights yet.
    """
    _seed(seed, part)
    with _Watch() as watch:
        first = make()
    _require_weights(first, part)
    keys, parts = watch.keys(first), _Parts.of(first, watch)
    del first
    _seed(seed, part)
    with _Replay(seed, part, keys) as replay:
        made = make()
    difference = _other_draws(keys, watch.drawn, replay.drawn) or parts.difference(made)
    if difference is not None:
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
    lazy = [f"{path} ({type(m).__name__})" for path, m in module.named_modules() if any(map(is_lazy, _own(m)))]
    if lazy:
        raise NotRepeatableError(
            f"{part}: {', '.join(lazy)} in {type(module).__name__} would draw weights in forward, where they have no "
            "seed and no optimizer. Take the layer that is told its sizes: a neck and a head find the channels of "
            "their inputs in in_spec.channels"
        )


def _own(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _named(module: Any) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _other_draws(keys: Sequence[Key], before: Sequence[str], now: Sequence[str]) -> str | None:
    """Where the draws of two times part."""
    if before == now:
        return None
    same = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
    name = next((name for name, _ in keys[same:] if name), None) or next((n for n, _ in reversed(keys) if n), None)
    where = f", at or after {name}" if name else ""
    return f"draws different random numbers ({len(before)} and {len(now)} draws{where})"


@dataclass(frozen=True)
class _Parts:
    """What has to be the same the second time.

    Attributes:
        shapes: of parameters and buffers, by name.
        constants: parameters without a drawn number.
    """

    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Tensor]

    @classmethod
    def of(cls, module: Any, watch: _Watch) -> _Parts:
        constants = {name: p.detach() for name, p in module.named_parameters() if watch.is_constant(p)}
        return cls({name: tuple(x.shape) for name, x in _named(module)}, constants)

    def difference(self, module: Any) -> str | None:
        """What is another in a module that was made later."""
        now = dict(_named(module))
        for name in dict.fromkeys([*self.shapes, *now]):
            if (name in now) != (name in self.shapes):
                return f"has {name} only the {'second' if name in now else 'first'} time"
            if (shape := tuple(now[name].shape)) != self.shapes[name]:
                return f"has {name} in different shapes, {self.shapes[name]} and {shape}"
        for name, value in self.constants.items():
            if not value.is_meta and not torch.equal(value, now[name]):
                return f"has different numbers in {name}, which torch did not draw"
        return None


class _Watch(TorchDispatchMode):
    """Follows random numbers from where they are drawn to all tensors that are computed from them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.drawn: list[str] = []
        self._wrote_all: list[bool] = []
        self._reached: list[list[StorageWeakRef]] = []  # per draw, in order of time, where its numbers went
        self._sources: dict[StorageWeakRef, set[int]] = {}
        self._overwritten: set[StorageWeakRef] = set()  # as a whole, by what is computed from no draw

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        sources: set[int] = set()
        for tensor in _tensors((args, kwargs)):
            sources |= self._sources.get(_storage(tensor), set())
        written = _tensors(result)
        if _draws(func):
            sources.add(len(self.drawn))
            self.drawn.append(str(func))
            self._wrote_all.append(all(_is_whole(tensor) for tensor in written))
            self._reached.append([])
        if func in _OVERWRITES and _is_whole(args[0]) and not any(map(self._has_draw, _tensors(args[1:]))):
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
        return not self.is_constant(tensor)

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor has nothing of any draw."""
        storage = _storage(tensor)
        return storage not in self._sources or storage in self._overwritten

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
    """Seeds the generator before every draw."""

    def __init__(self, seed: int, part: str, keys: Sequence[Key]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.drawn: list[str] = []
        self._seed, self._part, self._keys = seed, part, keys

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if _draws(func):
            if len(self.drawn) < len(self._keys):
                name, number = self._keys[len(self.drawn)]
                _seed(self._seed, self._part, name, str(number))
            self.drawn.append(str(func))
        return func(*args, **(kwargs or {}))


def _seed(seed: int, *words: str) -> None:
    digest = hashlib.sha256("/".join((str(seed), *words)).encode()).digest()
    # not torch.manual_seed: it reaches out to every accelerator, and weights are drawn on the CPU
    torch.default_generator.manual_seed(int.from_bytes(digest[:4], "little"))


def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> StorageWeakRef:
    # weak: nothing is kept in memory, and yet no other storage gets its address as long as the reference lives
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # likewise


def _is_whole(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
