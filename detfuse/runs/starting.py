"""A run that starts from the weights of another detector: they are read, told, and measured before it learns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from detfuse.attention.inserts import Insert
from detfuse.build import Parts, build_trainer
from detfuse.errors import InputError, UserError
from detfuse.runs.invocation import Invocation
from detfuse.training.datamodule import LightningData
from detfuse.weights.sources import read_source
from detfuse.weights.transfer import SourceStart, new_inserts
from detfuse.words import points, signed, some


def source_of(config: Mapping[str, Any], invocation: Invocation) -> SourceStart | None:
    """What a run starts from; None: from random weights but for the backbone's.

    Raises:
        UserError: if it cannot be read.
    """
    given = config.get("init_from")
    if not given:
        return None
    try:
        return SourceStart(read_source(given, invocation.choices.get("experiment")))
    except InputError as error:
        raise UserError(f"init_from={given}: {error}") from error


def told(source: SourceStart, parts: Parts, trainer: Trainer, folder: Path) -> str:
    """For people: what was kept and what is new, and the AP before the first step.

    Inserts that the source does not have may change what it detects before they have learnt (``init=paper``): what that
    costs is told as such. It is measured by a single process.
    """
    lines = [f"starts from {source.source.name}", *source.source.notes, str(source.kept)]
    if pretrained := parts.module.config["backbone"].get("pretrained"):
        lines.append(f"backbone.pretrained={pretrained} is not read: the backbone's weights are the source's")
    if trainer.world_size == 1 and not getattr(trainer, "fast_dev_run", False):
        lines.append(_measured(parts, new_inserts(parts.detector, source.source.state), folder))
    return "\n".join(lines)


def _measured(parts: Parts, inserts: Sequence[Insert], folder: Path) -> str:
    now = _ap(parts, folder)
    text = f"mAP before the first step: {points(now)}"
    if not inserts:
        return text
    with without(inserts):
        source = _ap(parts, folder)
    if now is None or source is None or now == source:
        return f"{text}, as without the new inserts"
    names = some(sorted({f"{insert.kind} at {insert.site}" for insert in inserts}))
    return (
        f"{text}; without the new inserts {points(source)}: {names} cost {signed(now - source)} at the start, since "
        "they do not begin as the identity (init=paper); init=identity keeps what the source detects"
    )


def _ap(parts: Parts, folder: Path) -> float | None:
    """MAP on the validation split; None if it is undefined."""
    trainer = build_trainer(parts.module.config, folder, bare=True)
    trainer.validate(parts.module, datamodule=LightningData(parts.data), verbose=False)
    assert parts.module.metrics is not None
    value = float(parts.module.metrics.stats["mAP"])
    return None if value < 0 else value


@contextmanager
def without(inserts: Sequence[Insert]) -> Iterator[None]:
    """Within the context these inserts hand on what they read."""
    with ExitStack() as stack:
        for insert in inserts:
            handle = insert.register_forward_hook(lambda _module, read, _made: read[0])
            stack.callback(handle.remove)
        yield
