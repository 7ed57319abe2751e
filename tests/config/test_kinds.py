"""Every setting of a run has a kind, and every entry of the table is a setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import pytest

from detfuse.cli import COMMANDS
from detfuse.config import TrainSettings
from detfuse.config.kinds import KINDS, keys_of, kind_of
from detfuse.config.resolve import resolve

NEEDED = {
    "evaluate": ["checkpoint=x"],
    "predict": ["checkpoint=x", "source=x"],
    "export": ["checkpoint=x"],
    "compare": ["a=x", "b=x", "annotations=x"],
    "browse": ["data.root=x"],
    "check": ["data.root=x"],
    "convert": ["data.root=x", "output=x"],
}
OF_A_RUN = {field.name for field in fields(TrainSettings)}


def keys(node: Any, path: str = "") -> Iterator[str]:
    for key, item in node.items() if isinstance(node, Mapping) else ():
        below = f"{path}.{key}" if path else str(key)
        yield below
        yield from keys(item, below)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_that_says_what_a_run_is_has_a_kind(command: str) -> None:
    config = resolve(NEEDED.get(command, []), COMMANDS[command].settings).config
    own = {field.name for field in fields(COMMANDS[command].settings)} - OF_A_RUN  # what is asked of a run, or of many
    assert set(config) - own - {"ablation"} <= set(KINDS)


def test_every_key_with_a_kind_is_one_of_a_run() -> None:
    known = {
        key
        for data in ("synthetic", "folder")
        for key in keys(resolve([f"data={data}", "data.root=x"], TrainSettings).config)
    }
    assert set(KINDS) - known == {"hydra", "experiment"}


def test_the_longest_key_counts() -> None:
    paths = ("trainer", "trainer.devices", "trainer.max_epochs", "logger.csv.x", "my.own", "data.rooted")
    assert [kind_of(path) for path in paths] == ["science", "machine", "science", "display", "science", "science"]
    assert set(keys_of("machine")) > {"trainer.devices", "data.loader.num_workers"}
