from __future__ import annotations

from pathlib import Path

import pytest

from detfuse.config import TrainSettings
from detfuse.errors import UserError
from detfuse.runs.run_folder import (
    Held,
    auto_name,
    base_folder,
    checkpoint_of,
    claimed,
    folder_to_resume,
    locked,
    start_again,
)


def settings(**changes: object) -> TrainSettings:
    given = {"seed": 0, "project": "p", "name": "auto", "runs_dir": "runs", "overwrite": False, "resume": False}
    given["evaluate"] = "best"
    return TrainSettings(**{**given, **changes})  # type: ignore[arg-type]  # the values are typed by each test


@pytest.fixture(autouse=True)
def no_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DETFUSE_RUN_FOLDER", "")


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ([], "defaults"),
        (["neck=pafpn", "seed=0"], "neck-pafpn_seed-0"),
        (["seed=0", "neck=pafpn"], "neck-pafpn_seed-0"),
        (["+neck.out_channels=3", "trainer.max_epochs=2"], "neck.out_channels-3_trainer.max_epochs-2"),
        (["backbone.name=x", "seed=1", "operator=add", "neck=fpn"], "neck-fpn_operator-add_seed-1_backbone.name-x"),
        (["resample@resample.up=bilinear"], "resample.up-bilinear"),
        (["data=coco", "data.root=../x", "trainer.devices=2", "data.loader.num_workers=3"], "data-coco"),
        (["resume=true", "runs_dir=/x", "logger=none", "project=q", "trainer.accelerator=cpu"], "defaults"),
        (["data.limit_images=5"], "data.limit_images-5"),
        (["evaluate=last", "trainer.log_every_n_steps=1", "callbacks.checkpoints.every_n_epochs=2"], "evaluate-last"),
        (["~callbacks.pictures", "callbacks.fusion_weights=null", "++trainer.strategy=ddp"], "defaults"),
    ],
)
def test_a_name_tells_what_makes_a_difference(typed: list[str], name: str) -> None:
    assert auto_name(typed) == name


def test_names_are_folders_and_stay_unique() -> None:
    names = [auto_name([f"backbone.levels={levels}"]) for levels in ("[3,4]", "[3.4]", "(3,4)", "[3/4]")]
    assert len(set(names)) == 4
    assert all(base_folder(settings(name=name), [], multirun=False).name == name for name in names)
    long = [auto_name([f"a.key.number.{i}=1" for i in range(20)] + [f"z={z}"]) for z in (1, 2)]
    assert long[0] != long[1]
    assert all(len(name) <= 100 for name in long)


def test_the_runs_of_a_sweep_get_names_of_their_own() -> None:
    folder = base_folder(settings(name="mine"), ["neck=fpn", "name=mine"], multirun=True)
    assert folder == Path("runs/p/mine_neck-fpn")
    assert base_folder(settings(name="mine"), ["neck=fpn"], multirun=False) == Path("runs/p/mine")


def test_a_sweep_over_what_is_no_science_keeps_its_runs_apart() -> None:
    for place, *values in (("data.root", "a/b", "a.b"), ("data.val_annotations", "x", "y"), ("logger", "csv", "none")):
        folders = {
            base_folder(settings(name=name), ["seed=0", f"{place}={value}"], multirun=True, swept=(place,))
            for name in ("auto", "mine")
            for value in values
        }
        assert len(folders) == 4, place
    assert auto_name(["name=x", "seed=1"], ["name", "seed"]) == "seed-1"


def claim(base: Path, *, numbered: bool = False, overwrite: bool = False) -> Path:
    """A run that begins and ends."""
    with claimed(base, numbered=numbered, overwrite=overwrite) as held:
        if overwrite:
            held.empty()
        (held.path / "config.yaml").touch()
        return held.path


def test_an_unnamed_run_takes_the_next_free_number(tmp_path: Path) -> None:
    base = tmp_path / "p" / "defaults"
    assert [claim(base, numbered=True).name for _ in range(3)] == ["defaults", "defaults-2", "defaults-3"]


def test_a_named_run_is_refused_unless_overwritten(tmp_path: Path) -> None:
    base = claim(tmp_path / "mine")
    (base / "old.txt").touch()
    with pytest.raises(UserError, match=r"not empty.*overwrite=true"):
        claim(base)
    assert claim(base, overwrite=True) == base
    assert not (base / "old.txt").exists()


def test_only_run_folders_are_overwritten(tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.tex").touch()
    with pytest.raises(UserError, match="no run folder"):
        claim(precious, overwrite=True)
    (precious / "config.yaml").touch()
    link = tmp_path / "link"
    link.symlink_to(precious)
    with pytest.raises(UserError, match="no run folder"):
        claim(link, overwrite=True)
    assert (precious / "chapter.tex").exists()


def test_a_run_at_work_is_left_alone(tmp_path: Path) -> None:
    base = claim(tmp_path / "mine")
    with locked(base):
        with pytest.raises(UserError, match="another run is at work"):
            claim(base, overwrite=True)
        with pytest.raises(UserError, match="another run is at work"), locked(base):
            pass
    with locked(base) as held:
        assert held == Held(base, stays=True)


def refused(base: Path, *, overwrite: bool = False, begun: bool = False) -> None:
    with claimed(base, numbered=True, overwrite=overwrite) as held:
        (held.path / "of_a_logger").mkdir(exist_ok=True)
        held.stays = held.stays or begun
        raise UserError("no")


def test_a_run_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no$"):
        refused(tmp_path / "runs" / "p" / "defaults")
    assert list(tmp_path.iterdir()) == []
    first = claim(tmp_path / "runs" / "p" / "defaults")
    with pytest.raises(UserError, match=r"^no$"):
        refused(first)
    assert list(first.parent.iterdir()) == [first]
    with pytest.raises(UserError, match=r"^no$"):
        refused(first, begun=True)
    assert first.with_name("defaults-2").is_dir()


def test_a_run_that_is_refused_leaves_the_run_that_it_was_to_replace(tmp_path: Path) -> None:
    base = claim(tmp_path / "mine")
    (base / "metrics.json").touch()
    with pytest.raises(UserError, match=r"^no$"):
        refused(base, overwrite=True)
    assert (base / "metrics.json").is_file()


def test_other_processes_follow_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "defaults"
    claim(base, numbered=True)
    first = claim(base, numbered=True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert claim(base, numbered=True) == first
    with pytest.raises(UserError, match=r"^no$"):
        refused(base)
    assert first.is_dir()


def run_folder(path: Path, *files: str) -> Path:
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    return path


def test_resume_true_means_the_folder_that_the_command_names(tmp_path: Path) -> None:
    assert folder_to_resume(False, tmp_path / "a") is None
    assert folder_to_resume(True, tmp_path / "absent") is None
    complete = run_folder(tmp_path / "b", "config.yaml", "checkpoints/last.ckpt")
    assert folder_to_resume(True, complete) == complete
    assert folder_to_resume(str(complete), tmp_path / "other") == complete


def test_resume_that_finds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        folder_to_resume(str(tmp_path / "absent"), tmp_path / "a")
    half = run_folder(tmp_path / "c", "config.yaml", "checkpoints/.best.ckpt.part")
    assert folder_to_resume(True, half) is None
    assert start_again(half)
    with pytest.raises(UserError, match=r"last\.ckpt"):
        folder_to_resume(str(half), tmp_path / "a")


def test_a_run_killed_between_its_checkpoints_goes_on_from_the_one_it_has(tmp_path: Path) -> None:
    early = run_folder(tmp_path, "config.yaml", "checkpoints/best.ckpt")
    assert folder_to_resume(True, early) == early
    assert not start_again(early)
    assert checkpoint_of(early).name == "best.ckpt"
    run_folder(tmp_path, "checkpoints/last.ckpt")
    assert checkpoint_of(tmp_path).name == "last.ckpt"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a/b"},
        {"name": ".."},
        {"project": "a b"},
        {"name": ""},
        {"seed": -1},
        {"overwrite": True, "resume": True},
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"name|project|seed|overwrite"):
        settings(**changes)
