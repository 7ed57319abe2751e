"""Common prefixes of names: what wrappers put before all of them, found by how the names end."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from detfuse.errors import InputError


def common_prefix(given: Iterable[str], fits: Callable[[str], bool]) -> str:
    """The prefix without which most names fit; empty if they do so as they are.

    Of ``_orig_mod.module.layer1.0.weight`` the ending ``layer1.0.weight`` fits, so what stands before it is a prefix;
    the one of most names is taken, of those of the same names the shortest. A prefix ends in a dot.

    Args:
        given: names in a file.
        fits: whether a model has a weight of this name.

    Raises:
        InputError: if two prefixes serve as well as each other, so that the file holds two models.
    """
    found: dict[str, set[str]] = {}
    for name in given:
        parts = name.split(".")
        for cut in range(len(parts)):
            rest = ".".join(parts[cut:])
            if fits(rest):
                found.setdefault(name[: len(name) - len(rest)], set()).add(name)
    ordered = sorted(found, key=lambda prefix: (-len(found[prefix]), len(prefix)))
    for other in ordered[1:2]:
        best = ordered[0]
        if len(found[other]) == len(found[best]) > 1 and not found[other] & found[best]:
            raise InputError(
                f"it holds two models, one behind {best!r} and one behind {other!r} in its names, with "
                f"{len(found[best])} weights each: save the one that you mean by itself"
            )
    return ordered[0] if ordered else ""
