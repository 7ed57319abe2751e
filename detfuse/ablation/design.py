"""What is compared: a page of YAML (``conf/ablation/*.yaml``) and the arms that it stands for. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from detfuse.ablation.records import Arm, BudgetKind
from detfuse.errors import InputError
from detfuse.ranges import FractionBelowOne, PositiveInt, Seed, checked

Design = Literal["one_at_a_time", "factorial"]
Equalised = Literal["norm", "block", "levels", "scale"]
Allowed = Literal["levels", "environment", "schedule"]

_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 60


class PlanError(InputError):
    """A plan that cannot be carried out.

    Attributes:
        problems: every reason, a line each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        count = "1 mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        super().__init__("\n  ".join([f"the ablation has {count}:", *self.problems]))


@checked
@dataclass(frozen=True, kw_only=True)
class Ablation:
    """The page: factors, or arms where factors cannot say it.

    Args:
        factors: override's key (``neck``, ``optimizer.lr``, ``attention@attention.lateral``) -> levels; the first
            level of each is the baseline's.
        design: ``one_at_a_time`` leaves the baseline in one factor per arm; ``factorial`` has every combination.
        arms: name -> its overrides as key -> value; instead of ``factors``.
        baseline: name of the arm that the others are compared with; None is the first.
        common: overrides that all arms share, as key -> value.
        seeds: of every arm; the same for all, so that differences are paired.
        budget: what is held equal to the baseline.
        equalise: what an arm brings along and is set to the baseline's.
        allow: differences that would be refused.
        equivalence: a difference of AP, as a fraction, that nobody would care about.
        together: arms may differ from the baseline in several things at once; they are one choice then, and named so.
        looks: numbers of seeds after which a verdict is drawn and decided arms stop; empty: once, after all seeds.
        all_pairs: compare the arms with one another, too.
    """

    factors: dict[str, list[Any]] | None = None
    design: Design = "one_at_a_time"
    arms: dict[str, dict[str, Any] | None] | None = None
    baseline: str | None = None
    common: dict[str, Any] | None = None
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    budget: BudgetKind = "free"
    equalise: list[Equalised] = field(default_factory=list)
    allow: list[Allowed] = field(default_factory=list)
    equivalence: FractionBelowOne = 0.005
    together: bool = False
    looks: list[PositiveInt] = field(default_factory=list)
    all_pairs: bool = False


def arms_of(page: Ablation) -> tuple[Arm, ...]:
    """The arms of a page, the baseline first.

    Raises:
        PlanError: naming everything that is wrong.
    """
    if (page.factors is None) == (page.arms is None):
        raise PlanError(["a plan has either factors (key -> levels) or arms (name -> overrides)"])
    arms = _listed(page.arms) if page.arms is not None else _combined(page.factors or {}, page.design)
    if len(arms) < 2:
        raise PlanError(
            [f"{_arms_text(arms)}: a comparison needs at least two arms; give a factor a second level, or add an arm"]
        )
    problems = _clashes(arms)
    names = [arm.name for arm in arms]
    if page.baseline is not None and page.baseline not in names:
        problems.append(f"baseline={page.baseline}: there is no such arm; there are: {', '.join(names)}")
    if problems:
        raise PlanError(problems)
    first = 0 if page.baseline is None else names.index(page.baseline)
    return (arms[first], *arms[:first], *arms[first + 1 :])


def override(key: str, value: Any) -> str:
    """``key=value`` as Hydra reads it, quoted where it must be.

    Raises:
        ValueError: for a value that cannot be written as an override.
    """
    text = _text(value)
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        raise InputError(f"{key}: {text} cannot be written as an override: {str(error).splitlines()[0]}") from None
    if parsed.is_sweep_override():
        raise InputError(f"{key}={text}: several values in one; write them as levels of a factor")
    return f"{key}={text}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = str(value)
    if not isinstance(value, str) or _reads_back(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _reads_back(text: str) -> bool:
    """Whether a text without quotes is read as itself, inside a list too."""
    try:
        read: object = OverridesParser.create().parse_override(f"k=[{text}]").value()
    except HydraException:
        return False
    return isinstance(read, list) and len(read) == 1 and isinstance(read[0], str) and read[0] == text


def _combined(factors: Mapping[str, list[Any]], design: Design) -> list[Arm]:
    empty = [key for key, levels in factors.items() if not isinstance(levels, list) or not levels]
    if empty:
        raise PlanError([f"factors.{key}: give a list of levels, the baseline's first" for key in empty])
    if design == "factorial":
        rows = list(product(*factors.values()))
    else:
        base = [levels[0] for levels in factors.values()]
        rows = [tuple(base)]
        for place, levels in enumerate(factors.values()):
            rows += [(*base[:place], level, *base[place + 1 :]) for level in levels[1:]]
    keys = list(factors)
    return [_arm(_name(keys, row, rows[0], design), dict(zip(keys, row, strict=True))) for row in rows]


def _listed(arms: Mapping[str, Mapping[str, Any] | None]) -> list[Arm]:
    return [_arm(str(name), dict(settings or {})) for name, settings in arms.items()]


def _arm(name: str, settings: dict[str, Any]) -> Arm:
    try:
        return Arm(name, settings, tuple(override(key, value) for key, value in settings.items()))
    except InputError as error:
        raise PlanError([f"arm {name}: {error}"]) from error


def _name(keys: Sequence[str], row: Sequence[Any], baseline: Sequence[Any], design: Design) -> str:
    """``pafpn`` of one factor; ``fpn_lr-0.001`` of several, or where one is changed at a time ``lr-0.001``."""
    pairs = list(zip(keys, row, baseline, strict=True))
    if design == "one_at_a_time" and len(keys) > 1:
        pairs = [(key, level, base) for key, level, base in pairs if level != base]
        if not pairs:
            return "baseline"
    return "_".join(_label(key, level, alone=len(keys) == 1) for key, level, _ in pairs)


def _label(key: str, level: Any, *, alone: bool) -> str:
    text = _NO_NAME.sub("-", _text(level)).strip("-.")[:_LONGEST_NAME] or "empty"
    is_group = "." not in key and "@" not in key
    return text if is_group or alone else f"{key.rpartition('.')[2]}-{text}"


def _clashes(arms: Sequence[Arm]) -> list[str]:
    problems = []
    names = [arm.name for arm in arms]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            settings = " and ".join(" ".join(arm.overrides) or "nothing" for arm in arms if arm.name == name)
            problems.append(f"two arms are called {name} ({settings}): leave one out, or name them in arms")
        if _NO_NAME.search(name) or not name.strip("."):
            problems.append(f"arm {name!r}: names are made of letters, digits, '.', '_' and '-' (they become folders)")
    return problems


def _arms_text(arms: Sequence[Arm]) -> str:
    return f"the only arm is {arms[0].name}" if arms else "there is no arm"
