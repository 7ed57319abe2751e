"""A trained checkpoint as files, and predictions from the files alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, invocation, run
from PIL import Image

from detfuse.cli import export_run
from detfuse.errors import UserError
from detfuse.runs.predictors import open_predictor

FEW = ("backbone.levels=[3,4]", "neck.topology.extra_levels=0")  # tracing takes a second for every level
PHOTOS = {"flat.png": (4000, 1), "portrait.png": (60, 80), "square.png": (64, 64), "wide.png": (128, 96)}
CHECKPOINT = "runs/default/first/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one epoch."""
    folder = tmp_path_factory.mktemp("user")
    run("train", *TINY, *FEW, "name=first", "trainer.max_epochs=1", folder=folder)
    (folder / "photos").mkdir()
    generated = Image.open(sorted((folder / "datasets").rglob("*.jpg"))[0])
    for name, size in PHOTOS.items():
        generated.resize(size).save(folder / "photos" / name)
    return folder


def found(folder: Path, file: str, output: str) -> list[dict[str, Any]]:
    """What predict finds in photos of several shapes."""
    argv = (f"checkpoint={file}", "source=photos", "threshold=0", f"output={output}")
    done = run("predict", *argv, folder=folder, fresh=not file.endswith(".ckpt"))
    if not file.endswith(".ckpt"):
        assert "detfuse.export" in done.stderr
        assert "pytorch_lightning" not in done.stderr  # an exported file needs no training program
    assert "flat.png: 1 x 4000 pixels" in done.stdout
    assert "its longer side is capped: 1 x 1024" in done.stdout
    assert {picture.stem for picture in (folder / output).glob("*.jpg")} == {Path(name).stem for name in PHOTOS}
    rows: list[dict[str, Any]] = json.loads((folder / output / "detections.json").read_text())
    assert {row["image_id"] for row in rows} >= {2, 3, 4}
    return rows


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    close = ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    return (
        close
        and ours["image_id"] == theirs["image_id"]
        and ours["category_id"] == theirs["category_id"]
        and ours["bbox"] == pytest.approx(theirs["bbox"], abs=1e-3)
    )


def test_files_predict_what_the_checkpoint_predicts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install 'detfuse[export]'")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # Python lists on stderr what it imports
    expected = found(folder, CHECKPOINT, "from_ckpt")
    assert expected
    for kind, elsewhere in (("onnx", ()), ("pt2", ("data=coco", "data.root=nowhere"))):
        printed = run("export", f"checkpoint={CHECKPOINT}", f"format={kind}", *elsewhere, folder=folder).stdout
        assert "takes   images of any size, padded to multiples of 32 pixels, any number at a time" in printed
        if elsewhere:
            assert "AP is not compared, for there are no validation images: " in printed
            assert "a drawing of 240 x 320, a drawing of 320 x 240" in printed
        else:
            assert re.search(r"mAP (\S+) of the file, \1 of the detector as evaluated, on 8 validation images", printed)
        assert "equal to the detector" in printed
        assert f"written to runs/default/first/best.{kind}" in printed
        alone = folder / f"moved.{kind}"
        (folder / f"runs/default/first/best.{kind}").rename(alone)
        rows = found(folder, alone.name, f"from_{kind}")
        assert len(rows) == len(expected)
        # two engines round differently, so rows of almost equal score may change places
        assert [row for row in rows if not any(same(row, other) for other in expected)] == []


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["combine=wbf"], r"WeightedBoxFusion cannot be exported.*combine=nms and combine=soft_nms"),
        (["output=x.onnx", "format=pt2"], r"output=x.onnx.*must end in .pt2"),
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
