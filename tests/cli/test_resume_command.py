"""``train resume=``: what a run goes on from, what may have changed in the meantime, and what is said of damage."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detfuse.cli import prediction_run, training_run
from detfuse.cli.settings import PredictSettings
from detfuse.config import Settings, TrainSettings, conf_dir, resolve
from detfuse.data.generators import Shapes, generate
from detfuse.errors import UserError
from detfuse.runs.invocation import Invocation
from detfuse.runs.resumption import resumption

RUN = Path("runs/default/a")
LAST, BEST = RUN / "checkpoints/last.ckpt", RUN / "checkpoints/best.ckpt"
GIVEN = (
    *("data=coco", "data.transform.short_side=32", "data.loader.num_workers=0", "data.loader.batch_size=2"),
    *("neck.out_channels=8", "head.num_convs=1", "callbacks.pictures=null", "logger=none"),
    *("trainer.max_epochs=1", "trainer.accelerator=cpu", "name=a"),
)


def invocation(settings: type[Settings], *argv: str) -> Invocation:
    found = resolve(list(argv), settings)
    return Invocation(found.config, list(argv), found.choices, multirun=False, directories=[conf_dir()])


def train(*argv: str) -> None:
    training_run.run(invocation(TrainSettings, *GIVEN, *argv))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and a run of one epoch on it."""
    folder = tmp_path_factory.mktemp("made")
    shapes = Shapes(num_train=5, num_val=2, image_size=32, min_size=8.0, max_size=20.0, max_objects=2, data_seed=0)
    generate(folder / "generated", shapes).rename(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("data.root=data")
    return folder


@pytest.fixture
def begun(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cut(to: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:to])


def flip(path: Path) -> None:
    """One bit of the largest tensor."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)


def other_file(path: Path) -> None:
    path.write_text("no checkpoint")


@pytest.mark.parametrize("damage", [cut(0), cut(1000), cut(300_000), flip, other_file])
def test_a_damaged_checkpoint_is_told_with_what_else_there_is(begun: Path, damage: Callable[[Path], None]) -> None:
    damage(begun / LAST)
    told = rf"^{LAST}: .*{BEST} is whole \(step 2, the end of epoch 1\): delete {LAST}"
    with pytest.raises(UserError, match=told) as error:
        resumption(RUN, [conf_dir()])
    assert "\n" not in str(error.value)
    damage(begun / BEST)
    with pytest.raises(UserError, match=rf"{BEST} is damaged too"):
        resumption(RUN, [conf_dir()])


def test_damage_is_told_before_anything_is_built(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(begun / LAST)
    monkeypatch.setattr(training_run, "build_parts", None)
    with pytest.raises(UserError, match=rf"^{LAST}: the file is damaged"):
        train("data.root=data", "resume=true")


def test_a_run_goes_on_from_its_only_checkpoint_on_the_same_data_elsewhere(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is left by a kill between the first ``best.ckpt`` and the first ``last.ckpt``."""
    (begun / LAST).unlink()
    (begun / "data").rename(begun / "moved")
    train("data.root=moved", "resume=true", "trainer.max_epochs=2")
    assert f"resuming from {BEST} (step 2, the end of epoch 1)" in capsys.readouterr().out
    assert (begun / LAST).is_file()
    file = begun / "moved/annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] /= 2
    file.write_text(json.dumps(content))
    config = (begun / RUN / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"the train annotations are not those that the run began with: .*changed"):
        train("data.root=moved", "resume=true", "trainer.max_epochs=3")
    assert (begun / RUN / "config.yaml").read_text() == config


def test_what_a_checkpoint_cannot_go_on_with_is_refused(begun: Path) -> None:
    """An older version did not note its data; and the rest of an epoch depends on the number of processes."""
    found = resumption(RUN, [conf_dir()])
    older = replace(found, data=None)
    data: Any = None  # it is not asked
    older.require_same(data, older.config)
    with pytest.raises(UserError, match=r"an older version wrote it.* data\.root cannot change"):
        older.require_same(data, {**older.config, "data": {**older.config["data"], "root": "moved"}})
    found.require_processes(2)
    with pytest.raises(UserError, match=r"in the middle of an epoch of 1 processes; 2 would form other batches"):
        replace(found, seen=1).require_processes(2)


def test_a_checkpoint_of_another_run_is_told(begun: Path) -> None:
    """Its weights fit, and so would be trained on in silence."""
    train("data.root=data", "name=other", "seed=1")
    shutil.copy(begun / "runs/default/other/checkpoints/last.ckpt", begun / LAST)
    with pytest.raises(UserError, match=rf"^{LAST} is of another run: seed=1 \(here 0\)\."):
        train("data.root=data", "resume=true", "trainer.max_epochs=2")


def cropped(state: dict[str, Any]) -> None:
    moments = next(moments for moments in state["state"].values() if moments["exp_avg"].ndim == 4)
    moments["exp_avg"] = moments["exp_avg"][:1]


def shortened(state: dict[str, Any]) -> None:
    state["param_groups"][0]["params"].pop()


def emptied(state: dict[str, Any]) -> None:
    del state["param_groups"]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (cropped, r"a exp_avg of \[1, 3, 3, 3\] for backbone\.\S+, which is \[\d+, 3, 3, 3\]: it is of another model"),
        (shortened, "the checkpoint's optimizer has other parameters than this detector"),
        (emptied, r"the optimizer in the checkpoint is incomplete or damaged \(KeyError: 'param_groups'\)"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_told(begun: Path, harm: Callable[[dict[str, Any]], None], told: str) -> None:
    """Torch compares the number of parameters alone, and breaks at the first step."""
    checkpoint = torch.load(begun / LAST, weights_only=True)
    harm(checkpoint["optimizer_states"][0])
    torch.save(checkpoint, begun / LAST)
    with pytest.raises(UserError, match=told):
        train("data.root=data", "resume=true", "trainer.max_epochs=2")


def test_a_finished_run_says_so_and_is_scored_without_its_best_checkpoint(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (begun / BEST).unlink()
    train("data.root=data", "resume=true")
    printed = capsys.readouterr().out
    assert "this run has finished" in printed
    assert f"{BEST} is gone, and {LAST} is scored in its place" in printed
    assert f"checkpoint: {LAST}" in printed
    assert "annotations: data/annotations/instances_val.json" in printed
    metrics = json.loads((begun / RUN / "metrics.json").read_text())
    named = [metrics[name] for name in ("checkpoint", "annotations", "images")]
    assert named == [str(LAST), "data/annotations/instances_val.json", "data/images/val"]
    with pytest.raises(UserError, match=r"trainer\.max_epochs=0: .*cannot be made shorter"):
        train("data.root=data", "resume=true", "trainer.max_epochs=0")


def test_a_run_that_broke_shows_the_step_again(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = (
        "data.root=data",
        "name=b",
        "optimizer.lr=1e30",
        "scheduler.warmup_steps=0",
        "trainer.gradient_clip_val=null",
    )
    with pytest.raises(UserError, match=r"at step 1 \(epoch 1\), images"):
        train(*broken)
    capsys.readouterr()
    train(*broken, "resume=runs/default/b", "debug=anomaly")
    printed = capsys.readouterr().out
    assert "step 1 (epoch 1), the last batch of the step: images [" in printed
    assert "The first layer whose output is not finite is " in printed


def predict(*argv: str) -> None:
    prediction_run.run(invocation(PredictSettings, f"checkpoint={LAST}", "trainer.accelerator=cpu", *argv))


def test_predictions_write_over_their_own_files_alone(begun: Path) -> None:
    source = begun / "mine"
    source.mkdir()
    picture = next((begun / "data").rglob("*.jpg"))
    for name in ("x.jpg", "X.png", "x_2.jpg", "y.png"):
        shutil.copy(picture, source / name)
    (source / "broken.jpg").write_bytes(b"\xff\xd8 cut")
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    with pytest.raises(UserError, match=r"mine: broken\.jpg, x_2\.jpg would be written over"):
        predict("source=mine", "output=mine")
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before
    for _ in range(2):
        with pytest.raises(UserError, match=r"1 of 5 pictures were left out:\n.*broken\.jpg"):
            predict("source=mine", "output=found", "threshold=0.01")
    drawn = sorted(file.name.casefold() for file in (begun / "found").glob("*.jpg"))
    assert drawn == ["x.jpg", "x_2.jpg", "x_3.jpg", "y.jpg"]
    rows = json.loads((begun / "found/detections.json").read_text())
    assert {row["file_name"] for row in rows} <= {f"mine/{name}" for name in before}
    (begun / "found/y.jpg").write_bytes(b"mine now")
    with pytest.raises(UserError, match=r"found: y\.jpg would be written over"):
        predict("source=mine", "output=found")
