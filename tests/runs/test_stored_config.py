from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from detfuse.config import conf_dir
from detfuse.errors import UserError
from detfuse.runs.invocation import Invocation
from detfuse.runs.stored_config import evaluated, resumed

STORED: dict[str, Any] = {
    "seed": 0,
    "neck": {"_target_": "detfuse.necks.graph_neck.GraphNeck", "out_channels": 8},
    "backbone": {"name": "resnet10t", "pretrained": True},
    "combine": {"_target_": "detfuse.ops.postprocess.Nms", "iou_threshold": 0.6},
    "trainer": {"max_epochs": 2, "devices": 2, "accelerator": "gpu", "precision": "bf16-mixed", "limit_val_batches": 3},
    "data": {"root": "x", "transform": {"short_side": 9}, "loader": {"batch_size": 4, "num_workers": 0}},
    "logger": {"csv": {}},
}
CHOICES = {"neck": "fpn", "data": "synthetic", "combine": "nms", "trainer": "default", "logger": "default"}


def invocation(typed: list[str], choices: dict[str, str] | None = None, **changes: Any) -> Invocation:
    config = deepcopy(STORED)
    config["trainer"].update(devices=1, accelerator="auto", precision="32-true", limit_val_batches=1.0)
    for key, value in changes.items():
        node = config
        *parents, leaf = key.split("__")
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return Invocation(config, typed, {**CHOICES, **(choices or {})}, multirun=False, directories=[conf_dir()])


def test_a_resumed_run_keeps_its_settings() -> None:
    kept = resumed(STORED, CHOICES, invocation(["resume=true", "neck=fpn", "neck.out_channels=8", "seed=0"]))
    assert kept == STORED


def test_a_resumed_run_may_go_on_longer_elsewhere() -> None:
    typed = ["trainer.max_epochs=5", "trainer.devices=1", "data.loader.num_workers=2", "logger=none"]
    given = invocation(typed, {"logger": "none"}, trainer__max_epochs=5, data__loader__num_workers=2, logger={})
    config = resumed(STORED, CHOICES, given)
    assert config["trainer"] == {**STORED["trainer"], "max_epochs": 5, "devices": 1}
    assert config["data"]["loader"] == {"batch_size": 4, "num_workers": 2}
    assert config["logger"] == {}
    assert STORED["trainer"]["max_epochs"] == 2


def test_a_resumed_run_may_tell_more_and_find_its_data_elsewhere_but_no_others() -> None:
    typed = ["trainer.log_every_n_steps=1", "callbacks.fusion_weights=null", "evaluate=last", "project=q"]
    typed += ["data.root=y", "data.limit_images=3"]
    given = invocation(typed, data__root="y", data__limit_images=3, trainer__log_every_n_steps=1)
    given.config["callbacks"] = {"fusion_weights": None}
    with pytest.raises(
        UserError, match=r"^[^:]*: data\.limit_images=3 \(the run has \w+\)\. What may change: trainer\.max_epochs,"
    ):
        resumed(STORED, CHOICES, given)
    given.typed.remove("data.limit_images=3")
    changed = {"trainer": {**STORED["trainer"], "log_every_n_steps": 1}, "callbacks": {"fusion_weights": None}}
    changed["data"] = {**STORED["data"], "root": "y"}
    assert resumed(STORED, CHOICES, given) == {**STORED, **changed}


def test_a_resumed_run_names_every_setting_that_differs() -> None:
    typed = ["neck=pafpn", "neck.out_channels=16", "seed=1"]
    with pytest.raises(UserError) as error:
        resumed(STORED, CHOICES, invocation(typed, {"neck": "pafpn"}, neck__out_channels=16, seed=1))
    for text in (*typed, "neck=fpn", "has 8", "has 0"):
        assert text in str(error.value)


def test_numbers_left_to_the_backbones_weights_may_be_left_to_them_again() -> None:
    """They are stored as numbers, so the command that began a run does not name what its folder has."""
    stored = {**STORED, "detector": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    typed = ["detector.mean=null", "detector.std=[0.5,0.5,0.5]"]
    given = invocation(typed)
    given.config["detector"] = {"mean": None, "std": [0.5, 0.5, 0.5]}
    assert resumed(stored, CHOICES, given) == stored
    assert evaluated(stored, given)["detector"] == stored["detector"]
    given.config["detector"] = {"mean": [0.4, 0.4, 0.4], "std": None}
    with pytest.raises(UserError, match=r"detector\.mean.*the run has \[0\.5"):
        resumed(stored, CHOICES, given)


def test_evaluation_takes_the_checkpoints_settings_and_this_machines_devices() -> None:
    config = evaluated(STORED, invocation(["checkpoint=x"]))
    assert config["trainer"] == {**STORED["trainer"], "devices": 1, "accelerator": "auto"}
    assert config["backbone"]["pretrained"] is False
    assert {k: v for k, v in config.items() if k not in {"trainer", "backbone"}} == {
        k: v for k, v in STORED.items() if k not in {"trainer", "backbone"}
    }


def test_evaluation_on_other_data_keeps_the_image_size() -> None:
    data = {"root": "other", "limit_images": None, "transform": {"short_side": 800}, "loader": {"batch_size": 8}}
    config = evaluated(STORED, invocation(["data=coco", "data.root=other"], {"data": "coco"}, data=data))
    assert config["data"] == {**data, "transform": {"short_side": 9}, "loader": STORED["data"]["loader"]}
    config = evaluated(STORED, invocation(["data.root=y"], data__root="y"))
    assert config["data"] == {**STORED["data"], "root": "y"}


def test_evaluation_refuses_settings_that_the_checkpoint_does_not_have() -> None:
    given = invocation(["data.val_images=y"], data__val_images="y")
    with pytest.raises(UserError, match=r"no data\.val_images; it has: root"):
        evaluated(STORED, given)
