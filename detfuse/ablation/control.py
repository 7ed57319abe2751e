"""The no-confound check: what else differs between two arms than what is compared. No torch.

A pair that differs outside the declared factor is refused by name. What the choice itself brings along (a neck's own
norm, operator, resampling) is a covariate: it is listed beside the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detfuse.ablation.records import Arm
from detfuse.config.resolve import Resolved

Pairs = dict[str, tuple[str, str]]
"""Setting -> (the baseline's, the arm's)."""

# Says where things lie and what is shown; nothing of a result depends on it.
_NO_SCIENCE = (
    *("seed", "project", "name", "runs_dir", "overwrite", "resume", "evaluate", "logger"),
    *("callbacks.progress", "callbacks.pictures", "data.loader.num_workers"),
)
# What arms of one plan may differ in within one experiment; the rest of `data` decides what they are scored on.
_DATA_OF_TRAINING = ("data.transform", "data.loader")
_JUDGE = ("data", "evaluation")
# What a choice brings along by its own defaults list.
_BROUGHT = {"neck": ("operator", "resample")}
_ASPECTS = {
    **dict.fromkeys(("backbone", "neck", "operator", "resample", "attention", "head", "detector"), "architecture"),
    **dict.fromkeys(("optimizer", "scheduler", "trainer", "module", "callbacks"), "training"),
    "data": "data",
    "combine": "combination of detections",
}
_ABSENT = object()


def confounds(baseline: tuple[Arm, Resolved], arm: tuple[Arm, Resolved]) -> list[str]:
    """Every difference between two arms that is not what is compared, with the reason why it is refused."""
    declared = _declared(baseline[0], arm[0])
    areas = [area for key in (*declared, *_matched(baseline[0]), *_matched(arm[0])) for area in _areas(key)]
    aspects = sorted({_aspect(key) for key in declared}) if _is_explicit(baseline[0], arm[0]) else []
    between = f"{arm[0].name} and {baseline[0].name}"
    problems = []
    for path, (ours, theirs) in _differences(baseline[1].config, arm[1].config).items():
        values = f"{path} is {_shown(ours)} in {baseline[0].name} and {_shown(theirs)} in {arm[0].name}"
        if _is_below(path, _JUDGE) and not _is_below(path, _DATA_OF_TRAINING):
            problems.append(f"{values}: they would be scored on different images, or by different judges")
        elif not _is_below(path, areas):
            problems.append(f"{values}, but what is compared is {', '.join(declared) or 'nothing'}")
    if len(aspects) > 1:
        problems.append(
            f"{between} differ in {' and '.join(aspects)} ({', '.join(declared)}): which of them made the difference "
            "could not be told; set one alike in `common`, or vary both as factors with design: factorial"
        )
    return problems


def covariates(baseline: tuple[Arm, Resolved], arm: tuple[Arm, Resolved]) -> Pairs:
    """What the choice brings along: settings that both arms have, that differ, and that nobody declared."""
    declared = _declared(baseline[0], arm[0])
    set_by_hand = tuple(key.partition("@")[2] or key for key in declared if "." in key)
    ours, theirs = baseline[1].choices, arm[1].choices
    chosen = tuple(key.partition("@")[2] or key for key in declared)
    brought: Pairs = {}
    mounts = []
    for mount in sorted(ours.keys() & theirs.keys()):
        place = mount.partition("@")[2] or mount
        if ours[mount] != theirs[mount]:
            mounts.append(place)
            if place not in chosen:
                brought[place] = (ours[mount], theirs[mount])
    for path, (left, right) in _differences(baseline[1].config, arm[1].config).items():
        of_other_option = any(_is_below(path, (place,)) and place not in chosen for place in mounts)
        is_choice = path.endswith(("_target_", "_partial_")) or _is_below(path, set_by_hand)
        if left is not _ABSENT and right is not _ABSENT and not of_other_option and not is_choice:
            brought[path] = (_shown(left), _shown(right))
    return brought


def environment_differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> Pairs:
    """Versions, device and threads in which two runs differ, by their environment.json; the number of cores may."""
    return {
        key: (ours.get(key, "unknown"), theirs.get(key, "unknown"))
        for key in dict.fromkeys([*ours, *theirs])
        if key != "cpu_count" and ours.get(key) != theirs.get(key)
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``path: before -> now`` for every leaf of two plain configurations that differs."""
    return [f"{path}: {_shown(a)} -> {_shown(b)}" for path, (a, b) in _differences(before, now).items()]


def _declared(baseline: Arm, arm: Arm) -> list[str]:
    """Keys of the factors in which two arms were meant to differ."""
    keys = dict.fromkeys([*baseline.factors, *arm.factors])
    return [k for k in keys if baseline.factors.get(k, _ABSENT) != arm.factors.get(k, _ABSENT)]


def _matched(arm: Arm) -> list[str]:
    """Keys that were set to hold something equal to the baseline (budget, equalisation): what else an arm overrides."""
    keys = [text.partition("=")[0] for text in arm.overrides]
    return [key for key in keys if key not in arm.factors]


def _is_explicit(baseline: Arm, arm: Arm) -> bool:
    """Whether the arms were written one by one: those of factors all have the same keys."""
    return baseline.factors.keys() != arm.factors.keys()


def _areas(key: str) -> tuple[str, ...]:
    place = key.lstrip("+~").partition("@")[2] or key.lstrip("+~")
    return (place, *_BROUGHT.get(place, ()))


def _aspect(key: str) -> str:
    root = _areas(key)[0].split(".")[0]
    return _ASPECTS.get(root, root)


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    left, right = dict(_leaves(ours)), dict(_leaves(theirs))
    pairs = {path: (left.get(path, _ABSENT), right.get(path, _ABSENT)) for path in dict.fromkeys([*left, *right])}
    return {path: (a, b) for path, (a, b) in pairs.items() if not _is_below(path, _NO_SCIENCE) and not _is_same(a, b)}


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (a is not _ABSENT and b is not _ABSENT and a == b)


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, item in node.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _is_below(path: str, roots: tuple[str, ...] | list[str]) -> bool:
    return any(path == root or path.startswith(f"{root}.") for root in roots)


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
