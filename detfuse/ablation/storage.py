"""The files of an ablation's folder: strict JSON (the plan is YAML, which people read), written at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from detfuse.ablation.records import DetectorCost, Look, Plan, Run
from detfuse.config.settings import check_name
from detfuse.errors import InputError
from detfuse.files.plain import read_json, read_yaml
from detfuse.files.records import StorageError, from_plain, loaded, to_plain
from detfuse.files.run_files import COST, STATE
from detfuse.files.text import write_json, write_text
from detfuse.statistics.records import Comparison, Score

PLAN = "plan.yaml"
COMPARISON = "comparison.json"
LOOKS = "looks.json"


def write_plan(folder: Path, plan: Plan) -> None:
    """``plan.yaml``."""
    write_text(folder / PLAN, plan_yaml(plan))


def plan_yaml(plan: Plan) -> str:
    """A plan as YAML, a line for what fits into one."""
    text: str = yaml.safe_dump(to_plain(plan), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return text


def read_plan(folder: Path) -> Plan:
    """Inverse of :func:`write_plan`; the file may be somebody else's.

    Raises:
        StorageError: if the file is missing or is no plan: of names that are folders, and settings that are no flags.
    """
    path = folder / PLAN
    plan = from_plain(Plan, loaded(path, read_yaml), str(path))
    try:
        for arm in plan.arms:
            check_name("arm", arm.name)
    except InputError as error:
        raise StorageError(f"{path}: {error}") from error
    settings = (*plan.common, *(text for arm in plan.arms for text in arm.overrides), *plan.typed)
    odd = [text for text in settings if not _is_setting(text)]
    if odd or not plan.arms or not plan.seeds:
        problem = f"{odd[0]!r:.80} is no setting of train or ablate, key=value" if odd else "it has no arms or no seeds"
        raise StorageError(f"{path}: {problem}; it was edited, take another copy")
    return plan


def _is_setting(text: str) -> bool:
    """Whether an override can only set a value: flags and Hydra's own settings do more."""
    return re.match(r"[+~]{0,2}(?!hydra[./@=]|hydra$)\w[\w./@-]*(=|$)", text) is not None


def write_comparison(
    folder: Path, scores: Sequence[Score], comparisons: Sequence[Comparison], pairs: Sequence[Comparison] = ()
) -> None:
    """``comparison.json``: all that the statistics say."""
    parts = {"scores": scores, "comparisons": comparisons, "pairs": pairs}
    write_json(folder / COMPARISON, {name: to_plain(part) for name, part in parts.items()})


def read_comparisons(folder: Path) -> list[Comparison]:
    """What the statistics said of all arms.

    Raises:
        StorageError: if ``comparison.json`` is missing or is none, or of a version that said other things.
    """
    path = folder / COMPARISON
    content = loaded(path, read_json)
    if not isinstance(content, Mapping) or not isinstance(content.get("comparisons"), list):
        raise StorageError(f"{path}: expected the key 'comparisons' with a list")
    return [from_plain(Comparison, one, str(path)) for one in content["comparisons"]]


def read_looks(folder: Path) -> list[Look]:
    """All conclusions that were drawn; none in a folder of which none has been drawn.

    Raises:
        StorageError: if ``looks.json`` is damaged.
    """
    path = folder / LOOKS
    if not path.is_file():
        return []
    content = loaded(path, read_json)
    if not isinstance(content, list):
        raise StorageError(f"{path}: expected a list of looks; the looks that were taken count, so restore it")
    return [from_plain(Look, entry, f"{path}, look {number}") for number, entry in enumerate(content, 1)]


def append_look(folder: Path, look: Look) -> None:
    """Add a conclusion to ``looks.json``; those that are there stay as they are."""
    write_json(folder / LOOKS, [to_plain(one) for one in (*read_looks(folder), look)])


def write_run(run: Run) -> None:
    """``state.json`` in the run's folder; it does not say where that lies, so that an ablation can be moved."""
    write_json(run.folder / STATE, {key: value for key, value in to_plain(run).items() if key != "folder"})


def read_run(folder: Path) -> Run:
    """The run of a run folder.

    Raises:
        StorageError: if its state.json is missing or is none.
    """
    path = folder / STATE
    content = loaded(path, read_json)
    if isinstance(content, Mapping):
        content = {**content, "folder": str(folder)}
    return from_plain(Run, content, str(path))


def write_cost(folder: Path, cost: DetectorCost) -> None:
    """``cost.json`` of a run folder."""
    write_json(folder / COST, to_plain(cost))


def read_cost(folder: Path) -> DetectorCost:
    """Inverse of :func:`write_cost`.

    Raises:
        StorageError: if the file is missing or is none.
    """
    return from_plain(DetectorCost, loaded(folder / COST, read_json), str(folder / COST))
