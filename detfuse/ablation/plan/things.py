"""What two arms differ in, thing by thing: read from what they resolve to, not from how they were written. No torch.

A *thing* is what one would name in a sentence: the neck, the operator, the attention at a site, the learning rate. Arms
declare things by naming keys; a key that only one of them names is compared with what the other one has anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from detfuse.ablation.records import Arm
from detfuse.config.kinds import keys_of
from detfuse.config.leaves import ABSENT, Leaves, differences, shown
from detfuse.config.resolve import Resolved
from detfuse.config.schema.overrides import is_below, place_of

Configured = tuple[Arm, Resolved]
"""An arm and what it resolves to."""

Pairs = dict[str, tuple[str, str]]
"""Thing or setting -> (the baseline's, the arm's)."""

NO_SCIENCE = (
    *keys_of("place", "display"),
    "seed",  # the same in both runs of a pair
    *("evaluate", "callbacks.checkpoints.metric"),  # the last checkpoint is scored
    "data.loader.num_workers",  # of the machine, and not even by rounding
)
"""Settings on which nothing of what is compared depends."""

# Settings that say what a part is: with its name or its graph the part itself is another one.
_OF_ONE_THING = {
    "neck.topology": "neck",
    "neck.nodes": "neck",
    "neck.outputs": "neck",
    "backbone.name": "backbone",
}
_LEVELS = "attention.levels."  # of a site: where its attention stands
_CALLABLE = ("._target_", "._partial_")


def things(baseline: Configured, arm: Configured) -> Pairs:
    """The things in which two arms differ by what they declare, in the order in which they name them.

    What a choice brings along by its own defaults (a neck's norm, and its operator unless an arm names one) is none.
    """
    declared = [place_of(key) for key in dict.fromkeys([*baseline[0].factors, *arm[0].factors])]
    chosen, ours, theirs = other_options(baseline[1], arm[1]), baseline[1].choices, arm[1].choices
    mounts = {place_of(mount) for mount in (*ours, *theirs)}
    leaves = of_science(differences(baseline[1].config, arm[1].config))
    found: Pairs = {}
    for place in declared:
        if place in chosen:
            found[place] = chosen[place]
        elif place not in mounts:
            for path, (left, right) in leaves.items():
                if is_below(path, (place,)):
                    whole = next((node for node in leaves if path.startswith(f"{node}.")), path)  # null on one side
                    thing = _thing(whole, left, right, chosen)
                    found.setdefault(thing, _values(thing, path, left, right))
    return found


def stand_alone(changed: Iterable[str], baseline: Configured, arm: Configured, others: Iterable[Configured]) -> bool:
    """Whether a plan also has each part of a step that changes several things at once, as a factorial has.

    Args:
        changed: the things in which the arm differs from the baseline.
        baseline: where the step begins.
        arm: where it ends.
        others: the plan's other arms.
    """
    whole = frozenset(changed)
    parts = set()
    for other in others:
        done, left = frozenset(things(baseline, other)), frozenset(things(other, arm))
        if done and left and done | left == whole and not done & left:
            parts.add(done)
    return len(parts) == (1 << len(whole)) - 2


def other_options(ours: Resolved, theirs: Resolved) -> Pairs:
    """Place of every group of which two configurations take different options -> the options."""
    return {
        place_of(mount): (ours.choices[mount], theirs.choices[mount])
        for mount in sorted(ours.choices.keys() & theirs.choices.keys())
        if ours.choices[mount] != theirs.choices[mount]
    }


def of_science(found: Leaves) -> Leaves:
    """Without the settings on which no result depends."""
    return {path: values for path, values in found.items() if not is_below(path, NO_SCIENCE)}


def _thing(path: str, left: Any, right: Any, chosen: Mapping[str, Any]) -> str:
    """The thing to which a setting belongs: itself, unless it says what a part is or only one of the parts has it."""
    if left is ABSENT or right is ABSENT:
        part = next((place for place in chosen if is_below(path, (place,))), None)
        if part is not None:
            return part
    if path.startswith(_LEVELS):
        return f"attention.{path.removeprefix(_LEVELS)}"
    if path.endswith(_CALLABLE):
        path = path.rpartition(".")[0]
    return next((thing for root, thing in _OF_ONE_THING.items() if is_below(path, (root,))), path)


def _values(thing: str, path: str, left: Any, right: Any) -> tuple[str, str]:
    setting = "" if path == thing else f"{path}="
    return f"{setting}{shown(left)}", f"{setting}{shown(right)}"
