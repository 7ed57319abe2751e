"""The configuration of a run or a checkpoint, checked like one that was composed: a file may have been edited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detfuse.config.location import conf_dir
from detfuse.config.mistakes import schema_of
from detfuse.config.retired import up_to_date
from detfuse.config.schema.frame import Frame
from detfuse.config.schema.nodes import NodeCheck
from detfuse.config.settings import TrainSettings
from detfuse.errors import InputError


@dataclass(frozen=True)
class _Stored:
    """See :class:`detfuse.config.schema.keys.Whole`."""

    config: DictConfig
    source: Path
    choices: Mapping[str, Any] = field(default_factory=dict)

    def origin(self, path: str) -> str | None:
        return self.source.name


def as_stored(config: Mapping[str, Any], source: Path, directories: list[Path]) -> dict[str, Any]:
    """A stored configuration of ``train`` as its parts take it now (:func:`up_to_date`), checked.

    Settings and places that are younger than the configuration may be missing.

    Args:
        config: plain and resolved.
        source: the file it stands in, for messages.
        directories: the shipped configuration, and the user's for private targets.

    Raises:
        InputError: naming everything that does not fit, as after an edit or a cut.
    """
    current = up_to_date(config)
    schema = schema_of(TrainSettings, [conf_dir(), *directories[1:]])
    schema = replace(schema, frame=_old_enough(schema.frame, current))
    problems = NodeCheck(_Stored(OmegaConf.create(current), source), schema).check_all()
    if problems:
        raise InputError("\n  ".join([f"{source}: its configuration does not fit:", *problems]))
    return current


def _old_enough(frame: Frame, config: Mapping[str, Any]) -> Frame:
    """The frame without what came later: groups of places that the configuration knows nothing of."""
    parts = {place: group for place, group in frame.parts.items() if "." not in place or place.split(".")[0] in config}
    return Frame(parts, frame.collections, frame.brought, settings={"seed"})
