"""What a resumed run takes from its checkpoint besides weights: which were pretrained, and what the optimizer knew.

The backbone of a resumed run is built without its pretrained weights, since the checkpoint brings all of them.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn

from detfuse.detector import Detector
from detfuse.errors import InputError
from detfuse.structures import Pretrained
from detfuse.training.optim import parameter_groups

_OLDER = "backbone", "rest"
"""First words of the groups' names as long as they went by the place of a parameter instead of by what it is."""


class ResumeError(InputError):
    """A run that cannot be continued as it began; the message says why, and what to do."""


def remember_pretrained(detector: Detector, stored: dict[str, Any]) -> None:
    """Note in a checkpoint what of the backbone was read, if it says so."""
    told = Pretrained.of(detector.backbone)
    if told is not None:
        stored["pretrained"] = told.as_dict()


def restore(detector: Detector, checkpoint: dict[str, Any]) -> None:
    """Let the detector know what was pretrained, and see that the checkpoint's optimizer state fits its groups.

    Args:
        detector: of the resumed run, as it was built.
        checkpoint: as Lightning reads it; changed in place if it is of an older version.

    Raises:
        ResumeError: if an older run trained parts of the backbone at another rate than they have now, or if the state
            is missing or of other parameters.
    """
    told = checkpoint["detfuse"].get("pretrained")
    if told is not None:
        detector.backbone.pretrained = Pretrained.from_dict(told)  # type: ignore[attr-defined]  # as its protocol says
    try:
        (state,) = checkpoint["optimizer_states"]
        if all(str(group.get("name")).startswith(_OLDER) for group in state["param_groups"]):
            _make_up_to_date(state, detector, checkpoint)
        _require_fit(state, detector)
    except ResumeError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ResumeError(f"the optimizer in the checkpoint is incomplete or damaged ({said:.200})") from error


def _require_fit(state: dict[str, Any], detector: Detector) -> None:
    """See that an optimizer's state is that of the detector's parameters: torch compares their number alone."""
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    groups = parameter_groups(detector, lr=1.0, weight_decay=0.0, backbone_multiplier=1.0)  # only the names are read
    stored = state["param_groups"]
    _require_numbers(stored, [len(group["params"]) for group in groups])
    for group, kept in zip(groups, stored, strict=True):
        for parameter, number in zip(group["params"], kept["params"], strict=True):
            for what, value in state["state"].get(number, {}).items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    raise ResumeError(
                        f"the checkpoint's optimizer has a {what} of {list(value.shape)} for {names[id(parameter)]}, "
                        f"which is {list(parameter.shape)}: it is of another model"
                    )


def _require_numbers(stored: list[dict[str, Any]], wanted: list[int]) -> None:
    """See that the groups of a state have as many parameters each as they should."""
    if [len(group["params"]) for group in stored] != wanted:
        raise ResumeError("the checkpoint's optimizer has other parameters than this detector: it is of another model")


def _make_up_to_date(state: dict[str, Any], detector: Detector, checkpoint: dict[str, Any]) -> None:
    """Bring what an older version grouped by place into today's groups."""
    if checkpoint["detfuse"]["config"].get("backbone", {}).get("pretrained"):
        _take_for_pretrained(detector)
    sources = _regroup(state, detector)
    for schedule in checkpoint.get("lr_schedulers", []):
        for key in ("base_lrs", "_last_lr", "lr_lambdas"):
            if key in schedule:
                schedule[key] = [schedule[key][source] for source in sources]


def _take_for_pretrained(detector: Detector) -> None:
    """An older checkpoint does not name what was read: it was all of the backbone but its inserts."""
    backbone = detector.backbone
    if isinstance(backbone, nn.Module) and hasattr(backbone, "pretrained"):
        names = frozenset(name for name, _ in backbone.named_parameters())
        backbone.pretrained = Pretrained("an older checkpoint", detector.normalization, names)  # type: ignore[assignment]


def _regroup(state: dict[str, Any], detector: Detector) -> list[int]:
    """Order an optimizer's state by today's groups.

    Returns:
        For each of them the group of the state from which it has its settings.
    """
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    now = parameter_groups(detector, lr=1.0, weight_decay=0.0, backbone_multiplier=1.0)  # only the names are read
    wanted = {group["name"]: [names[id(parameter)] for parameter in group["params"]] for group in now}
    older, groups = _older_groups(detector), state["param_groups"]
    _require_numbers(groups, [len(members) for members in older])
    place = {
        name: (index, number)
        for index, (members, group) in enumerate(zip(older, groups, strict=True))
        for name, number in zip(members, group["params"], strict=True)
    }
    others = [name for kind, members in wanted.items() if not kind.startswith("pretrained") for name in members]
    full = [groups[place[name][0]]["initial_lr"] for name in others]
    if len(set(full)) > 1:
        raise ResumeError(
            "this run was begun by an older version, which trained attention and random weights in the backbone at "
            f"another rate than the rest (peaks of {min(full):g} and {max(full):g}). They now learn at the full rate, "
            "so it cannot be continued as it began: train again under another name"
        )
    sources = [place[members[0]][0] for members in wanted.values()]
    moved = [state["state"].get(place[name][1]) for members in wanted.values() for name in members]
    state["state"] = {number: found for number, found in enumerate(moved) if found is not None}
    numbers = itertools.count()
    state["param_groups"] = [
        {**groups[source], "name": kind, "params": [next(numbers) for _ in members]}
        for (kind, members), source in zip(wanted.items(), sources, strict=True)
    ]
    return sources


def _older_groups(detector: Detector) -> list[list[str]]:
    """Names of the trainable parameters, grouped by place and weight decay."""
    groups: dict[tuple[bool, bool], list[str]] = {}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("backbone."), parameter.ndim > 1), []).append(name)
    return list(groups.values())
