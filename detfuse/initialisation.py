"""Weights that start from their name and the seed, whatever else is drawn before them.

A generator that is seeded once gives every later module other weights as soon as an earlier one differs, so two
detectors that share a module would not start it from the same values. Here every random draw has a seed of its own,
made from the run's seed and from the name of the parameter (or buffer) that the draw ends up in. Two parameters of the
same name, shape and initialiser are then equal at the start in any two detectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detfuse.errors import UserError

T = TypeVar("T")
Key = tuple[str, int]
"""Name of a parameter, and the number of the draw within it."""


class NotRepeatableError(UserError, RuntimeError):
    """A module that is not the same when it is built again with the same arguments."""


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
        NotRepeatableError: if the second time other things are drawn than the first time.
    """
    _seed(seed, part)
    with _Watch() as watch:
        first = make()
    keys = watch.keys(first)
    del first
    _seed(seed, part)
    with _Replay(seed, part, keys) as replay:
        made = make()
    if replay.drawn != watch.drawn:
        raise NotRepeatableError(
            f"{part}: built twice with the same arguments it draws different random numbers, so its start cannot be "
            "tied to names: a constructor must not depend on anything but its arguments"
        )
    _seed(seed, part)
    return made


class _Watch(TorchDispatchMode):
    """Follows random numbers from where they are drawn to all tensors that are computed from them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.drawn: list[str] = []
        self._wrote_all: list[bool] = []
        self._reached: list[list[StorageWeakRef]] = []  # per draw, in order of time, where its numbers went
        self._sources: dict[StorageWeakRef, set[int]] = {}

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
        if sources:
            for storage in map(_storage, written):
                known = self._sources.setdefault(storage, set())
                for source in sources - known:
                    self._reached[source].append(storage)
                known |= sources
        return result

    def keys(self, module: Any) -> list[Key]:
        """What each draw is known by: the first named tensor that it reached; ``""`` if it reached none."""
        names: dict[StorageWeakRef, str] = {}
        former_name = getattr(module, "former_name", str)
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
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
