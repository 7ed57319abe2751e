"""A trained checkpoint as files, and predictions from the files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, run
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from detfuse.cli import export_run, prediction_run
from detfuse.config import conf_dir
from detfuse.errors import UserError
from detfuse.runs.invocation import Invocation
from detfuse.runs.predictors import open_predictor

CHECKPOINT = "runs/default/first/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one epoch."""
    folder = tmp_path_factory.mktemp("user")
    run("train", *TINY, "name=first", "trainer.max_epochs=1", folder=folder)
    return folder


def found(folder: Path, file: str, output: str) -> list[dict[str, Any]]:
    """What predict finds in a picture, best first."""
    picture = sorted((folder / "datasets").rglob("*.jpg"))[0].relative_to(folder)
    argv = (f"checkpoint={file}", f"source={picture}", "threshold=0", f"output={output}")
    imported = run("predict", *argv, folder=folder, fresh=True).stderr
    assert ("pytorch_lightning" in imported) == file.endswith(".ckpt")  # an exported file needs no training program
    assert (folder / output / picture.name).is_file()
    rows: list[dict[str, Any]] = json.loads((folder / output / "detections.json").read_text())
    return rows


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    close = ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    return (
        close
        and ours["category_id"] == theirs["category_id"]
        and ours["bbox"] == pytest.approx(theirs["bbox"], abs=1e-3)
    )


def test_files_predict_what_the_checkpoint_predicts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install 'detfuse[export]'")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # Python lists on stderr what it imports
    expected = found(folder, CHECKPOINT, "from_ckpt")
    assert expected
    for kind in ("onnx", "pt2"):
        printed = run("export", f"checkpoint={CHECKPOINT}", f"format={kind}", folder=folder).stdout
        assert "size    64 x 64 pixels" in printed  # what the checkpoint pads a picture of 64 x 64 to
        assert "more padding" not in printed
        assert "equal to the detector" in printed
        assert f"written to runs/default/first/best.{kind}" in printed
        alone = folder / f"moved.{kind}"
        (folder / f"runs/default/first/best.{kind}").rename(alone)
        rows = found(folder, alone.name, f"from_{kind}")
        assert len(rows) == len(expected)
        # two engines round differently, so rows of almost equal score may change places
        assert [row for row in rows if not any(same(row, other) for other in expected)] == []
    Image.new("RGB", (128, 64)).save(folder / "wide.png")
    with pytest.raises(UserError, match=r"wide\.png: the image is 64 x 128 pixels.*64 x 64; export again with size"):
        prediction_run.run(invocation("predict", f"checkpoint={folder}/moved.pt2", f"source={folder}/wide.png"))


def invocation(command: str, *typed: str) -> Invocation:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose(command, list(typed)), resolve=True)
    assert isinstance(config, dict)
    chosen = {"combine": "nms", "data": "synthetic"}
    plain = {str(key): value for key, value in config.items()}
    return Invocation(plain, list(typed), chosen, multirun=False, directories=[conf_dir()])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["combine=wbf"], r"WeightedBoxFusion cannot be exported.*combine=nms and combine=soft_nms"),
        (["size=[64,70]"], r"size=\[64, 70\].*multiples of 32.*\[64, 96\]"),
        (["size=[64]"], "size must have 2 items"),
        (["output=x.onnx", "format=pt2"], r"output=x.onnx.*must end in .pt2"),
        (["data.transform.size=[64,64]", "size=[96,96]"], r"all have exactly \[64, 64\]; leave size out"),
        (["data=coco", "data.root=nowhere"], r"cannot be read \(.*nowhere.*give size="),
    ],
)
def test_what_cannot_be_exported_is_told(
    typed: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message):
        export_run.run(invocation("export", f"checkpoint={CHECKPOINT}", *typed))
    assert not list(folder.rglob("*.part*"))


def test_settings_inside_a_file_cannot_be_typed() -> None:
    typed = ("checkpoint=x.onnx", "source=y.jpg", "combine.iou_threshold=0.5", "threshold=0.1")
    with pytest.raises(UserError, match=r"^combine.iou_threshold=0.5: an exported file has its settings inside"):
        open_predictor(invocation("predict", *typed), ["checkpoint", "source", "threshold", "output"])
