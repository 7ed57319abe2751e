"""Weights and outputs that are no numbers detect nothing; every command that would then say "nothing" tells why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TINY, invocation
from PIL import Image

from detfuse.build import build_detector
from detfuse.cli import evaluation_run, export_run, prediction_run
from detfuse.errors import UserError
from detfuse.export import Deployed, Description, Resizing, program_of, written
from detfuse.ops.postprocess import Nms
from detfuse.structures import Categories

CATEGORIES = Categories((2, 5, 9), ("circle", "rectangle", "triangle"))
WEIGHT = "head.cls_tower.0.conv.weight"
SIZE = (64, 64)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("data")
    return invocation(
        "train", *TINY, "backbone=resnet10t", "neck=early", f"data.root={root}", "head.score_threshold=0"
    ).config


def checkpoint(path: Path, config: dict[str, Any], value: float, channels: int = 1) -> Path:
    """As training writes it, with this value in the weights of a layer's first channels; all others as they begin."""
    state = {f"detector.{key}": weight for key, weight in build_detector(config, len(CATEGORIES)).state_dict().items()}
    state[f"detector.{WEIGHT}"][:channels] = value
    own = {"version": "0.1.0", "config": config, "categories": CATEGORIES.as_dict(), "ema": None}
    torch.save({"epoch": 0, "state_dict": state, "detfuse": own}, path)
    return path


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for number in range(2):
        Image.effect_noise((64, 64), 50 + number).convert("RGB").save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_named(value: float, config: dict[str, Any], tmp_path: Path) -> None:
    file, source = checkpoint(tmp_path / "bad.ckpt", config, value), pictures(tmp_path / "pictures")
    told = rf"bad\.ckpt: 1 of its \d+ weights are NaN or infinite: {WEIGHT} \(144 of 2304 numbers\)"
    for command, run, typed in (
        ("evaluate", evaluation_run.run, ()),
        ("predict", prediction_run.run, (f"source={source}",)),
        ("export", export_run.run, ()),
    ):
        with pytest.raises(UserError, match=told):
            run(invocation(command, f"checkpoint={file}", *typed))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.ckpt", "pictures"]


def test_finite_weights_whose_outputs_are_not_are_told(config: dict[str, Any], tmp_path: Path) -> None:
    file, source = checkpoint(tmp_path / "huge.ckpt", config, 3e38, 16), pictures(tmp_path / "pictures")
    with pytest.raises(
        UserError, match=r"NaN or infinite in 8 of 8 validation images \(ids 2, 4, 6, .*lower optimizer"
    ):
        evaluation_run.run(invocation("evaluate", f"checkpoint={file}"))
    with pytest.raises(UserError, match=r"huge\.ckpt are NaN or infinite in 2 of 2 pictures \(.*0\.png, .*1\.png\)"):
        prediction_run.run(invocation("predict", f"checkpoint={file}", f"source={source}"))
    rows = json.loads((tmp_path / "predictions" / "detections.json").read_text())
    assert all(row["score"] >= 0 for row in rows)


def test_a_file_whose_outputs_are_no_numbers_is_told(config: dict[str, Any], tmp_path: Path) -> None:
    detector = build_detector(config, len(CATEGORIES)).eval()
    detector.head.cls_tower[0].conv.weight.data.fill_(torch.nan)
    description = Description("0.1.0", "m", CATEGORIES, Resizing(SIZE, 64, None), 1, {})
    program = program_of(Deployed(detector, Nms()), description)
    with written(tmp_path / "bad.pt2", "pt2", program, description):
        pass
    source = pictures(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"bad\.pt2 are NaN or infinite in 2 of 2 pictures"):
        prediction_run.run(invocation("predict", f"checkpoint={tmp_path}/bad.pt2", f"source={source}"))
