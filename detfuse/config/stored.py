"""The gate for a configuration that comes from a file: of a run, a checkpoint, an ablation's arm. Files are data.

Nothing of it is built before it has passed: it is plain and of a bounded size, calls only parts that belong where they
stand, and is right by the signatures that a command line is checked against.
"""

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
from detfuse.config.vouched import require_vouched
from detfuse.errors import InputError
from detfuse.files.plain import require_plain

_SHOWN = 20  # problems that are told one by one


@dataclass(frozen=True)
class _Stored:
    """See :class:`detfuse.config.schema.keys.Whole`."""

    config: DictConfig
    source: Path
    choices: Mapping[str, Any] = field(default_factory=dict)

    def origin(self, path: str) -> str | None:
        return self.source.name


def as_stored(config: Mapping[str, Any], source: Path, directories: list[Path]) -> dict[str, Any]:
    """A stored configuration of ``train`` as its parts take it now (:func:`up_to_date`), once it has passed the gate.

    Settings and places that are younger than the configuration may be missing.

    Args:
        config: as it was parsed.
        source: the file it stands in, for messages.
        directories: the shipped configuration, and the user's for private targets.

    Raises:
        InputError: naming what is no data, else everything that does not fit, as after an edit or a cut.
    """
    require_plain(config, source, "config")
    current = up_to_date(config)
    require_vouched(current, [conf_dir(), *directories[1:]], source)
    schema = schema_of(TrainSettings, [conf_dir(), *directories[1:]])
    schema = replace(schema, frame=_old_enough(schema.frame, current))
    problems = NodeCheck(_Stored(OmegaConf.create(current), source), schema).check_all()
    if problems:
        rest = [f"... and {len(problems) - _SHOWN} more"] * (len(problems) > _SHOWN)
        raise InputError("\n  ".join([f"{source}: its configuration does not fit:", *problems[:_SHOWN], *rest]))
    return current


def _old_enough(frame: Frame, config: Mapping[str, Any]) -> Frame:
    """The frame without what came later: groups of places that the configuration knows nothing of."""
    parts = {place: group for place, group in frame.parts.items() if "." not in place or place.split(".")[0] in config}
    return Frame(parts, frame.collections, frame.brought, settings={"seed"})
