"""Common prefixes of names: what wrappers put before all of them, found by how the names end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable


def common_prefix(given: Iterable[str], wanted: Collection[str]) -> str:
    """The prefix with which most given names are wanted ones; empty if they are so as they are.

    ``_orig_mod.module.layer1.0.weight`` ends in ``layer1.0.weight``, so what stands before it is a prefix; the one of
    most names is taken, of equals the shortest. A prefix ends in a dot.

    Args:
        given: names in a file.
        wanted: names of a model; one that ends in a dot stands for all that begin with it.
    """
    whole = {name for name in wanted if not name.endswith(".")}
    beginnings = tuple(name for name in wanted if name.endswith("."))
    counts: Counter[str] = Counter()
    for name in given:
        parts = name.split(".")
        for cut in range(len(parts)):
            rest = ".".join(parts[cut:])
            if rest in whole or rest.startswith(beginnings):
                counts[name[: len(name) - len(rest)]] += 1
    return min(counts, key=lambda prefix: (-counts[prefix], len(prefix)), default="")
