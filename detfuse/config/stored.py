"""The configuration of a run or a checkpoint, checked like one that was composed: a file may have been edited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detfuse.config.frame import Frame, frame_of
from detfuse.config.location import conf_dir
from detfuse.config.nodes import NodeCheck
from detfuse.config.retired import brought_up_to_date
from detfuse.errors import InputError


@dataclass(frozen=True)
class _Stored:
    """See :class:`detfuse.config.nodes.Whole`."""

    config: DictConfig
    source: Path
    choices: Mapping[str, Any] = field(default_factory=dict)

    def origin(self, path: str) -> str | None:
        return self.source.name


def as_stored(config: Mapping[str, Any], source: Path, directories: list[Path]) -> dict[str, Any]:
    """A stored configuration of ``train`` as its parts take it now (:func:`brought_up_to_date`), checked.

    Settings and places that are younger than the configuration may be missing.

    Args:
        config: plain and resolved.
        source: the file it stands in, for messages.
        directories: the shipped configuration, and the user's for private targets.

    Raises:
        InputError: naming everything that does not fit, as after an edit or a cut.
    """
    current = brought_up_to_date(config)
    roots = tuple(folder.parent for folder in directories)
    stored = _Stored(OmegaConf.create(current), source)
    problems = NodeCheck(stored, _old_enough(current), roots, "train", {}).check_all()
    if problems:
        raise InputError("\n  ".join([f"{source}: its configuration does not fit:", *problems]))
    return current


def _old_enough(config: Mapping[str, Any]) -> Frame:
    """The frame of ``train`` without what came later: groups of places that the configuration knows nothing of."""
    frame = frame_of(conf_dir(), "train")
    parts = {place: group for place, group in frame.parts.items() if "." not in place or place.split(".")[0] in config}
    return Frame(parts, frame.collections, frame.brought, settings={"seed"})
