"""What a choice of neck brings along, set as the baseline has it, so that it cannot be what made the difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from detfuse.build import build_neck
from detfuse.errors import InputError
from detfuse.structures import FeatureSpec

Setting = Literal["norm", "block", "levels", "scale"]
Settings = dict[str, Any]
"""Key below the neck -> value."""

_NORM = ("norm", "norm_eps", "norm_momentum", "activation")


class EqualiseError(InputError):
    """A setting in which an arm cannot be made equal to the baseline; the message names both."""


def equalised(
    config: Mapping[str, Any], baseline_config: Mapping[str, Any], what: Sequence[Setting]
) -> tuple[str, ...]:
    """Hydra overrides that make an arm's neck equal to the baseline's in what is not the question.

    ``norm`` is the norm and the activation, ``block`` what a topology computes on its maps, ``levels`` the strides of
    the outputs, by the levels above the backbone's and where they come from, ``scale`` the fill of the weights (the
    factors that follow from a batch are no setting: see :mod:`detfuse.ablation.plan.start`).

    Args:
        config: the arm's, plain and resolved.
        baseline_config: likewise.
        what: the settings, each once.

    Returns:
        Only those that change something.

    Raises:
        EqualiseError: naming the arm's neck and the setting, if it has no such setting, or cannot take that value.
    """
    overrides = []
    for setting in what:
        if setting not in _WANTED:
            raise EqualiseError(f"equalise: there is no {setting!r}; there are {', '.join(_WANTED)}")
        for key, value in _WANTED[setting](config, baseline_config).items():
            if _get(config["neck"], key) != value:
                overrides.append(f"neck.{key}={_written(value)}")
    return tuple(overrides)


def _norm(config: Mapping[str, Any], baseline: Mapping[str, Any]) -> Settings:
    for each in (config, baseline):
        if missing := [key for key in _NORM if key not in each["neck"]]:
            raise _no_such(config, baseline, "norm", each, ", ".join(missing))
    return {key: baseline["neck"][key] for key in _NORM}


def _block(config: Mapping[str, Any], baseline: Mapping[str, Any]) -> Settings:
    for each in (config, baseline):
        if "block" not in _topology(each):
            raise _no_such(config, baseline, "block", each, "topology.block")
    return {"topology.block": _topology(baseline)["block"]}


def _levels(config: Mapping[str, Any], baseline: Mapping[str, Any]) -> Settings:
    wanted, found = _strides(baseline), _strides(config)
    settings: Settings = {}
    own, other = _topology(config), _topology(baseline)
    if wanted != found and "extra_levels" in own:
        extra_levels = max(0, own["extra_levels"] + len(wanted) - len(found))
        settings["topology.extra_levels"] = extra_levels
        found = _strides({**config, "neck": {**config["neck"], "topology": {**own, "extra_levels": extra_levels}}})
    if wanted != found:
        raise EqualiseError(
            f"equalise levels: neck {_name(config)} predicts at strides {_listed(found)}, the baseline "
            f"{_name(baseline)} at {_listed(wanted)}, and no topology.extra_levels of the former changes that: leave "
            "levels out and declare the difference with allow=[levels], or take another arm (early_pyramid for early)"
        )
    if "extra" in own and "extra" in other:
        settings["topology.extra"] = other["extra"]
    return settings


def _scale(config: Mapping[str, Any], baseline: Mapping[str, Any]) -> Settings:
    if "scales" not in config["neck"]:
        raise _no_such(config, baseline, "scale", config, "scales")
    return {"fill": baseline["neck"]["fill"]} if "fill" in config["neck"] and "fill" in baseline["neck"] else {}


_WANTED: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Settings]] = {
    "norm": _norm,
    "block": _block,
    "levels": _levels,
    "scale": _scale,
}


def _no_such(
    config: Mapping[str, Any], baseline: Mapping[str, Any], setting: str, culprit: Mapping[str, Any], keys: str
) -> EqualiseError:
    who = "the baseline's" if culprit is baseline else "the arm's"
    return EqualiseError(
        f"equalise {setting}: {who} neck {_name(culprit)} has no {keys}, so neck {_name(config)} cannot be made equal "
        f"to {_name(baseline)}: leave {setting} out of equalise, or take another arm"
    )


def _strides(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Strides of the neck's outputs; they do not depend on the widths."""
    levels = config["backbone"]["levels"]
    spec = FeatureSpec((8,) * len(levels), tuple(2**level for level in levels))
    with torch.device("meta"):
        return build_neck(config, spec).out_spec.strides


def _topology(config: Mapping[str, Any]) -> Mapping[str, Any]:
    topology: Mapping[str, Any] = config["neck"].get("topology") or {}
    return topology


def _name(config: Mapping[str, Any]) -> str:
    """The topology's name, or the neck's class."""
    target = _topology(config).get("_target_") or config["neck"]["_target_"]
    return str(target).rpartition(".")[2]


def _get(node: Mapping[str, Any], path: str) -> Any:
    for key in path.split("."):
        node = node[key]
    return node


def _written(value: Any) -> str:
    return "null" if value is None else str(value)


def _listed(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))
