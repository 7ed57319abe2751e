"""The configuration of a run or a checkpoint: read as its parts take it now, and checked like a composed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detfuse.config import as_stored, conf_dir
from detfuse.config.resolve import resolve
from detfuse.errors import InputError

SOURCE = Path("runs/a/config.yaml")


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    return resolve(["callbacks=ema"], "train").config


@pytest.fixture
def stored(composed: dict[str, Any]) -> dict[str, Any]:
    """Each node can be changed without changing the others' configuration."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in composed.items()}


def test_what_was_composed_is_right(composed: dict[str, Any]) -> None:
    assert as_stored(composed, SOURCE, [conf_dir()]) == composed


def test_arguments_that_were_removed_since_are_left_out(composed: dict[str, Any], stored: dict[str, Any]) -> None:
    stored["logger"] = {
        "csv": {**stored["logger"]["csv"], "file_name": "metrics.csv"},
        "tensorboard": {**stored["logger"]["tensorboard"], "folder": "tensorboard", "flush_secs": 30},
    }
    stored["callbacks"]["fusion_weights"] = {**stored["callbacks"]["fusion_weights"], "file_name": "w.csv"}
    before = repr(stored)
    assert as_stored(stored, SOURCE, [conf_dir()]) == composed
    assert repr(stored) == before


def test_parts_that_stand_elsewhere_now_are_found(composed: dict[str, Any], stored: dict[str, Any]) -> None:
    levels = {**stored["attention"]["levels"], "_target_": "detfuse.inserts.Levels"}
    stored["attention"] = {**stored["attention"], "levels": levels}
    assert as_stored(stored, SOURCE, [conf_dir()]) == composed


def test_an_operator_that_a_neck_never_took_is_left_out() -> None:
    now = resolve(["neck=ssd_extras", "head=ssd"], "train").config
    assert "operator" not in now
    add, nearest = ({"_target_": f"detfuse.fusion.{name}"} for name in ("operators.Add", "resample.Nearest"))
    before = {**now, "operator": add, "resample": {"up": nearest, "down": nearest}}
    assert as_stored(before, SOURCE, [conf_dir()]) == now


def test_what_is_older_than_a_place_or_a_setting_is_right(stored: dict[str, Any]) -> None:
    for key in ("attention", "evaluate", "project"):
        del stored[key]
    assert as_stored(stored, SOURCE, [conf_dir()]) == stored


def test_what_was_cut_or_edited_is_told_together(stored: dict[str, Any]) -> None:
    del stored["neck"], stored["seed"]
    stored["trainer"] = {**stored["trainer"], "max_epocs": 3, "max_epochs": "many"}
    stored["callbacks"]["ema"] = {}
    stored["head"]["num_convs"] = -1
    stored["sed"] = 5
    stored["data"]["nested"] = {"_target_": "detfuse.backbones.timm_backbone.TimmBackbone", "name": "resnet18"}
    with pytest.raises(InputError) as error:
        as_stored(stored, SOURCE, [conf_dir()])
    first, *lines = str(error.value).splitlines()
    assert first == f"{SOURCE}: its configuration does not fit:"
    said = "\n".join(lines)
    for text in (
        "neck is missing",
        "seed is missing",
        "takes no max_epocs; did you mean max_epochs?",
        "trainer.max_epochs=many (config.yaml): expected int",
        "callbacks.ema=... (config.yaml): this must be a part",
        "head.num_convs=-1 (config.yaml): expected int (at least 0)",
        "there is no sed; did you mean seed?",
        "takes no nested",
    ):
        assert said.count(text) == 1, (text, said)
    assert len(lines) == 8
