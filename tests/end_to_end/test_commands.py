"""From the first command to a picture: train, evaluate, predict, resume, sweep, from a checkout and from the wheel."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import timm
import torch
import yaml
from commands import OF_THE_DETECTOR, REPOSITORY, TINY, here, run
from PIL import Image

RUN = Path("runs/default/first")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which a run was trained for two epochs, and what the command printed."""
    folder = tmp_path_factory.mktemp("user")
    return folder, run("train", *TINY, "name=first", "trainer.max_epochs=2", folder=folder).stdout


def numbers(text: str) -> list[str]:
    """The table of the 12 numbers."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("metric"))
    return lines[start : start + 14]


def test_the_run_folder_holds_all_that_a_run_is(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    found = {file.relative_to(folder / RUN).as_posix() for file in (folder / RUN).rglob("*") if file.is_file()}
    assert found >= {
        "config.yaml",
        "environment.json",
        "summary.txt",
        "fusion.svg",
        "metrics.csv",
        "metrics.json",
        "predictions.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "pictures/train_batch_0.jpg",
    }
    assert any(name.startswith("pictures/val_") for name in found)
    assert any(name.startswith("tensorboard/events") for name in found)
    assert f"run folder: {RUN}" in printed
    assert len(numbers(printed)) == 14
    assert "learning rate" in printed
    with (folder / RUN / "metrics.csv").open(newline="") as file:
        assert len([row for row in csv.DictReader(file) if row.get("val/mAP")]) == 2


def test_predictions_carry_the_ids_of_the_file(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    truth = json.loads(next((folder / "datasets").rglob("instances_val.json")).read_text())
    rows = json.loads((folder / RUN / "predictions.json").read_text())
    assert {row["category_id"] for row in rows} <= {category["id"] for category in truth["categories"]}
    assert {row["image_id"] for row in rows} <= {image["id"] for image in truth["images"]}


def test_checkpoints_are_plain_data(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    for name in ("best", "last"):
        stored = torch.load(folder / RUN / f"checkpoints/{name}.ckpt", weights_only=True)
        assert stored["detfuse"]["categories"]["names"] == ["circle", "rectangle", "triangle"]
        assert type(stored["detfuse"]["config"]) is dict


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_evaluation_prints_what_training_printed(trained: tuple[Path, str], engine: str) -> None:
    folder, printed = trained
    checkpoint = f"checkpoint={RUN}/checkpoints/best.ckpt"
    output = f"output=evaluation_{engine}"
    again = here("evaluate", checkpoint, f"evaluation.engine={engine}", output, folder=folder)
    assert numbers(again) == numbers(printed)
    first = json.loads((folder / RUN / "predictions.json").read_text())
    assert json.loads((folder / f"evaluation_{engine}" / "predictions.json").read_text()) == first


def test_weights_that_do_not_fit_are_told_plainly(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    stored = torch.load(folder / RUN / "checkpoints/best.ckpt", weights_only=True)
    name = next(key for key in stored["state_dict"] if key.endswith("cls_logits.weight"))
    stored["state_dict"][f"{name}s"] = stored["state_dict"].pop(name)
    torch.save(stored, folder / "renamed.ckpt")
    done = run("evaluate", "checkpoint=renamed.ckpt", folder=folder, fails=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: renamed.ckpt: ")
    assert "Traceback" not in done.stderr


def test_prediction_writes_pictures_and_coco_results(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    (folder / "mine").mkdir()
    picture = Image.open(sorted((folder / "datasets").rglob("*.jpg"))[0])
    picture.save(folder / "mine" / "a.png")
    exif = Image.Exif()
    exif[0x112] = 6  # lies on its left side, as cameras store what is held upright
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "mine" / "b.png", exif=exif)
    options = (f"checkpoint={RUN}/checkpoints/best.ckpt", "source=mine", "threshold=0.02", "output=found")
    printed = run("predict", *options, folder=folder).stdout
    assert "found" in printed
    assert {path.name for path in (folder / "found").glob("*.jpg")} == {"a.jpg", "b.jpg"}
    rows = json.loads((folder / "found" / "detections.json").read_text())
    first, turned = ([(r["bbox"], r["score"]) for r in rows if r["image_id"] == image] for image in (1, 2))
    assert first
    assert first == turned  # both are read upright, so the boxes are on the same objects


def test_the_same_command_works_twice_and_in_sweeps(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    for _ in range(2):
        run("train", *TINY, "trainer.fast_dev_run=true", folder=folder)
    sweep = ("-m", "neck=early,fpn", "operator=add,complex", "seed=0")
    run("train", *sweep, *TINY, "trainer.fast_dev_run=true", "project=sweep", folder=folder)
    assert len([run_folder for run_folder in (folder / "runs/sweep").iterdir() if run_folder.is_dir()]) == 4


def test_a_run_can_be_continued_for_longer(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    here("train", *TINY, "name=longer", "trainer.max_epochs=1", folder=folder)
    config = folder / "runs/default/longer/config.yaml"
    stored = yaml.safe_load(config.read_text())
    stored["logger"]["csv"]["file_name"] = "metrics.csv"  # as runs were stored while this was an option
    config.write_text(yaml.safe_dump(stored))
    printed = run("train", "resume=runs/default/longer", "trainer.max_epochs=2", folder=folder).stdout
    assert "epoch 2/2" in printed
    assert "epoch 1/2" not in printed
    refused = run("train", "resume=runs/default/longer", "optimizer.lr=5", folder=folder, fails=True)
    assert "optimizer.lr" in refused.stderr


def test_a_run_starts_from_the_weights_of_another(trained: tuple[Path, str]) -> None:
    """By names; with all parts the same, it begins at the other's AP."""
    folder, _ = trained
    printed = here("train", *TINY, "name=tuned", f"init_from={RUN}", "trainer.max_epochs=1", folder=folder)
    ap = json.loads((folder / RUN / "metrics.json").read_text())["stats"]["mAP"]
    assert f"starts from {RUN}/checkpoints/best.ckpt" in printed
    assert "3 of 3 classes by name: circle, rectangle, triangle" in printed
    assert f"mAP before the first step: {100 * ap:.1f}\n" in printed
    stored = yaml.safe_load((folder / "runs" / "default" / "tuned" / "config.yaml").read_text())
    assert stored["init_from"] == str(RUN)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")  # Lightning's word on the frozen stages
def test_a_run_on_pretrained_weights_needs_their_file_only_once(trained: tuple[Path, str]) -> None:
    """It is continued and evaluated with what its checkpoint says: mean, deviation and rates."""
    folder, _ = trained
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "w.pth")
    model = ("backbone=timm", "backbone.name=test_resnet", "backbone.pretrained=w.pth", "backbone.frozen_stages=2")
    slow = ("optimizer.backbone_multiplier=0.1", "attention@attention.stage=cbam")
    begun = here("train", *TINY, *model, *slow, "name=half", "trainer.max_epochs=1", folder=folder)
    assert "images" in begun
    assert "mean 0.5 0.5 0.5, std 0.5 0.5 0.5" in begun
    assert "learning rate 0.001, pretrained 0.0001" in begun
    (folder / "w.pth").unlink()
    half = folder / "runs/default/half"
    printed = here("train", "resume=runs/default/half", "trainer.max_epochs=2", folder=folder)
    assert "mean 0.5 0.5 0.5, std 0.5 0.5 0.5" in printed
    assert "learning rate 0.001, pretrained 0.0001" in printed
    checkpoint = "checkpoint=runs/default/half/checkpoints/best.ckpt"
    assert numbers(run("evaluate", checkpoint, folder=folder).stdout) == numbers(printed)
    assert (half / "predictions.json").read_text() == (half / "evaluation" / "predictions.json").read_text()
    stored = torch.load(half / "checkpoints/last.ckpt", weights_only=True)["detfuse"]
    assert stored["config"]["detector"]["mean"] == stored["pretrained"]["mean"] == [0.5, 0.5, 0.5]
    assert stored["config"]["backbone"]["pretrained"] == "w.pth"


def test_a_neck_of_ones_own_needs_no_python(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    (folder / "my" / "neck").mkdir(parents=True)
    (folder / "my" / "neck" / "mine.yaml").write_text(
        "defaults: [fpn, override /operator@_global_.operator: concat, _self_]\n"
        "topology: null\n"
        "nodes:\n"
        "  - {name: f4, level: 4, inputs: [c3, c4, c5]}\n"
        "  - {name: p3, level: 3, inputs: [f4, c3], block: conv3}\n"
        "  - {name: p5, level: 5, inputs: [f4, c5], block: conv3}\n"
        "outputs: [p3, p5]\n"
        "scales: {f4: 0.4321}\n"
    )
    argv = ("--config-dir", "my", "neck=mine", *TINY, "trainer.fast_dev_run=true", "name=mine")
    printed = here("train", *argv, folder=folder)
    assert "mine" in printed
    place = folder / "runs/default/mine"
    assert "× 0.432" in (place / "fusion.svg").read_text(encoding="utf-8")
    assert json.loads((place / "fusion.json").read_text())["scales"] == {"f4": 0.4321}


def test_the_wheel_has_everything_and_runs_anywhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    shipped = {file.relative_to(REPOSITORY / "conf") for file in (REPOSITORY / "conf").rglob("*.yaml")}
    assert {file.relative_to(site / "detfuse/conf") for file in (site / "detfuse/conf").rglob("*")} >= shipped
    package = [file for file in (REPOSITORY / "detfuse").rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert [file for file in package if not (site / file.relative_to(REPOSITORY)).is_file()] == []
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {"detfuse"}
    code = "import detfuse, sys; assert 'site' in detfuse.__file__; from detfuse.cli import train; train()"
    argv = [*TINY, "trainer.fast_dev_run=true"]
    subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )


def test_real_data_is_recognised_from_its_root(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "mixed_coco_cc"
    argv = ("data=coco", f"data.root={root}", "neck=pafpn", "operator=concat", "head=fcos", *OF_THE_DETECTOR)
    argv += ("data.transform.short_side=96", "data.transform.long_side=128", "data.limit_images=6")
    printed = run("train", *argv, "trainer.max_epochs=1", folder=tmp_path).stdout
    assert "instances_train.json" in printed
    assert "crowds" in printed
