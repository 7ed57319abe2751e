"""The configuration of a run or a checkpoint: read as its parts take it now, and checked like a composed one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from detfuse.config import TrainSettings, as_stored, check, conf_dir
from detfuse.config.resolve import resolve
from detfuse.config.retired import _MOVED
from detfuse.errors import InputError
from detfuse.files.plain import read_yaml

SOURCE = Path("runs/a/config.yaml")
BACKBONE = {"_target_": "detfuse.backbones.timm_backbone.TimmBackbone", "name": "resnet18", "pretrained": True}
TRANSFORMS = "detfuse.data.transforms.Transforms"


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    return resolve(["callbacks=ema"], TrainSettings).config


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
    stored["callbacks"]["progress"] = {**stored["callbacks"]["progress"], "refresh_per_second": 10.0}
    stored["callbacks"]["fusion_weights"] = {**stored["callbacks"]["fusion_weights"], "file_name": "w.csv"}
    before = repr(stored)
    assert as_stored(stored, SOURCE, [conf_dir()]) == composed
    assert repr(stored) == before


def test_parts_that_stand_elsewhere_now_are_found(composed: dict[str, Any], stored: dict[str, Any]) -> None:
    levels = {**stored["attention"]["levels"], "_target_": "detfuse.inserts.Levels"}
    stored["attention"] = {**stored["attention"], "levels": levels}
    assert as_stored(stored, SOURCE, [conf_dir()]) == composed


def test_a_choice_that_is_gone_is_read_only_where_it_chose_what_is_left(stored: dict[str, Any]) -> None:
    wbf = {"_target_": "detfuse.ops.postprocess.WeightedBoxFusion", "iou_threshold": 0.5, "max_detections": 100}
    read = as_stored({**stored, "combine": {**wbf, "score": "mean"}}, SOURCE, [conf_dir()])
    assert read["combine"] == wbf
    with pytest.raises(InputError, match=r"takes no score any more: it is always the mean.*it takes: iou_threshold"):
        as_stored({**stored, "combine": {**wbf, "score": "max"}}, SOURCE, [conf_dir()])


def test_a_part_that_has_moved_is_found_where_it_is(
    composed: dict[str, Any], stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_MOVED, "detfuse.fusion.operators.Plus", "detfuse.fusion.operators.Add")
    monkeypatch.setitem(_MOVED, "detfuse.necks.pyramids.fpn", "detfuse.necks.topologies.fpn")
    stored["operator"]["_target_"] = "detfuse.fusion.operators.Plus"
    stored["neck"]["topology"] = {**stored["neck"]["topology"], "_target_": "detfuse.necks.pyramids.fpn"}
    assert as_stored(stored, SOURCE, [conf_dir()]) == composed
    written = check(["operator._target_=detfuse.fusion.operators.Plus"], TrainSettings)
    assert len(written) == 1
    assert written[0].endswith("; it is detfuse.fusion.operators.Add now")


def test_an_operator_that_a_neck_never_took_is_left_out() -> None:
    now = resolve(["neck=ssd_extras", "head=ssd"], TrainSettings).config
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
    stored["data"]["nested"] = {"name": "resnet18"}
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
        "head.num_convs=-1 (config.yaml): expected int (in 0..1000)",
        "there is no sed; did you mean seed?",
        "takes no nested",
    ):
        assert said.count(text) == 1, (text, said)
    assert len(lines) == 8


def test_a_part_is_called_only_where_it_belongs_and_only_as_the_house_calls_it(stored: dict[str, Any]) -> None:
    """Files are data: whatever is called, with whatever flags, a YAML that is trusted has put there before."""
    topology = stored["neck"]["topology"]
    for place, node, said in (
        ("neck.nodes", [{"x": {"_target_": "os.system"}}], "calls os.system at neck.nodes.0.x, which is none of"),
        ("data.transform", {"_target_": "torch.hub.load", "source": "local"}, "calls torch.hub.load at data.transform"),
        ("callbacks.mine", {"_target_": "detfuse.cli.train"}, "calls detfuse.cli.train at callbacks.mine"),
        ("neck.foo", BACKBONE, "TimmBackbone at neck.foo, where it does not belong; expected no part"),
        ("data.transform", BACKBONE, f"where it does not belong; expected {TRANSFORMS}"),
        ("callbacks.ema", stored["data"], "SyntheticDataModule at callbacks.ema, where it does not belong"),
        ("neck", {**stored["neck"], "_recursive_": False}, "at neck with _recursive_=False"),
        ("head", {**stored["head"], "_args_": [BACKBONE]}, "at head with _args_="),
        ("neck.topology", {**topology, "_partial_": False}, "at neck.topology with _partial_=False"),
        ("data.transform", {**stored["data"]["transform"], "_partial_": True}, "at data.transform with _partial_=True"),
        ("_target_", "os.system", "calls os.system at "),
    ):
        parent, _, leaf = place.rpartition(".")
        evil = {**stored, parent: {**stored[parent], leaf: node}} if parent else {**stored, leaf: node}
        with pytest.raises(InputError) as error:
            as_stored(evil, SOURCE, [conf_dir()])
        assert said in str(error.value)
        assert str(error.value).startswith(f"{SOURCE}: its configuration calls")
        assert "\n" not in str(error.value)


def test_config_dir_vouches_for_private_parts_where_it_has_them(stored: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Pool:\n    def __init__(self, in_spec, *, n: int = 1): ...\n")
    stored["neck"] = {"_target_": "mine.Pool", "n": 2}
    del stored["operator"], stored["resample"]
    for number, (file, text) in enumerate(
        {
            "neck/pool": "_target_: mine.Pool\n",
            "experiment/e": "# @package _global_\nneck: {_target_: mine.Pool}\n",
            "ablation/a": "arms: {one: null, two: {++neck: {_target_: mine.Pool}}}\n",
        }.items()
    ):
        own = tmp_path / f"my{number}"
        (own / file).parent.mkdir(parents=True)
        (own / f"{file}.yaml").write_text(text)
        assert as_stored(stored, SOURCE, [conf_dir(), own])["neck"] == stored["neck"]
        with pytest.raises(InputError, match=r"mine\.Pool at head, where it does not belong"):
            as_stored({**stored, "head": {"_target_": "mine.Pool"}}, SOURCE, [conf_dir(), own])
    with pytest.raises(InputError, match=r"none of detfuse's parts.*--config-dir"):
        as_stored(stored, SOURCE, [conf_dir()])


def test_what_no_configuration_is_gets_refused_before_it_is_walked(stored: dict[str, Any], tmp_path: Path) -> None:
    shared: Any = ["x"] * 9
    for _ in range(9):
        shared = [shared] * 9
    deep: Any = 1
    for _ in range(5000):
        deep = {"a": deep}
    endless: list[Any] = []
    endless.append(endless)
    begun = time.monotonic()
    for value, said in (
        (shared, "config has more than 100,000 values"),
        (deep, "levels deep"),
        (endless, "levels deep"),
        ("x" * 200_000, "config.extra has a text of more than"),
        ({"a": ["${oc.env:HOME}"]}, r"config.extra.a[0] has the unresolved value '${oc.env:HOME}'"),
        ({"${oc.env:HOME}": 1}, "has the unresolved value"),
        (10**400, "config.extra is a number of more digits"),
        ({3: 4}, "has the key 3, which is no text"),
        (tmp_path, "config.extra is a PosixPath"),
    ):
        with pytest.raises(InputError) as error:
            as_stored({**stored, "extra": value}, SOURCE, [conf_dir()])
        assert said in str(error.value)
        assert len(str(error.value)) < 500
    laughs = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    for text, said in (
        ("a0: &a0 [x]\n" + laughs, "more than 100,000 values"),
        ("[" * 5000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [true]", "cannot be read"),
        ("a: b\n" * 300_000, "bytes"),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=said):
            read_yaml(tmp_path / "config.yaml")
    assert time.monotonic() - begun < 20
