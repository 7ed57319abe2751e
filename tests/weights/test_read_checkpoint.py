from __future__ import annotations

import os
import pickle
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detfuse.weights import Checkpoint, CheckpointError, load_weights, read_checkpoint

CONFIG = {"neck": {"_target_": "detfuse.necks.graph_neck.GraphNeck", "levels": [3, 4], "x": None, "y": 0.5}}


class Payload:
    """Unpickled with code allowed, it leaves a file behind."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


def content(**changes: Any) -> dict[str, Any]:
    own = {
        "version": "0.1.0",
        "config": CONFIG,
        "categories": {"ids": [1, 7], "names": ["cat", "dog"]},
        "ema": None,
    }
    whole: dict[str, Any] = {
        "epoch": 4,
        "state_dict": {"detector.weight": torch.ones(2, 3), "detector.bias": torch.zeros(2), "metric.n": torch.ones(1)},
        "detfuse": own | {key: value for key, value in changes.items() if key in own},
    }
    return whole | {key: value for key, value in changes.items() if key not in own}


def write(path: Path, **changes: Any) -> Path:
    torch.save(content(**changes), path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_reads_what_evaluation_needs(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(str(write(tmp_path / "best.ckpt")))
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.path == tmp_path / "best.ckpt"
    assert checkpoint.config == CONFIG
    assert checkpoint.categories.ids == (1, 7)
    assert checkpoint.categories.names == ("cat", "dog")
    assert (checkpoint.epoch, checkpoint.version, checkpoint.is_ema) == (4, "0.1.0", False)
    assert set(checkpoint.detector_state) == {"weight", "bias"}


def test_averaged_weights_win(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write(tmp_path / "a.ckpt", ema={"weight": torch.full((2, 3), 5.0)}))
    assert checkpoint.is_ema
    assert checkpoint.detector_state["weight"].eq(5).all()


def test_weights_that_are_no_numbers_are_named_and_counted(tmp_path: Path) -> None:
    weight = torch.ones(2, 3)
    weight[1, 1:] = torch.tensor([torch.nan, torch.inf])
    own = {"detector.weight": weight, "detector.n": torch.ones(2, dtype=torch.int64)}
    message = refusal(write(tmp_path / "a.ckpt", state_dict=own))
    assert "1 of its 2 weights are NaN or infinite: weight (2 of 6 numbers)." in message
    assert read_checkpoint(write(tmp_path / "b.ckpt", state_dict=own, ema={"weight": torch.ones(2, 3)})).is_ema
    statistics = {f"{name}.running_var": torch.full((4,), torch.nan) for name in range(9)}
    message = refusal(write(tmp_path / "c.ckpt", ema=statistics))
    assert "9 of its 9 weights are NaN or infinite: 0.running_var (4 of 4 numbers), 1.running_var" in message
    assert "5.running_var (4 of 4 numbers) and 3 more." in message


@pytest.mark.parametrize("name", ["besd.ckpt", "sub/best.ckpt", "../runx/last.ckpt"])
def test_a_missing_file_is_answered_with_what_there_is(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder / "best.ckpt")
    message = refusal(folder / name)
    assert "no such file" in message
    assert {"besd.ckpt": "best.ckpt", "sub/best.ckpt": "does not exist", "../runx/last.ckpt": "holds run"}[
        name
    ] in message


def test_a_folder_is_answered_with_the_checkpoints_in_it(tmp_path: Path) -> None:
    assert "no .ckpt file" in refusal(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    write(tmp_path / "checkpoints" / "best.ckpt")
    assert "checkpoints/best.ckpt" in refusal(tmp_path)


def test_every_damaged_file_is_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "good.ckpt").read_bytes()
    bad = tmp_path / "bad.ckpt"
    for data, words in ((b"", "empty"), (good[: len(good) // 2], "truncated"), (b"hello", "no zip"), (good[:3], "")):
        bad.write_bytes(data)
        assert words in refusal(bad)


def test_a_flipped_byte_in_the_weights_is_found(tmp_path: Path) -> None:
    weight = torch.full((2, 3), 1.7)
    path = write(tmp_path / "flipped.ckpt", state_dict={"detector.weight": weight})
    data = bytearray(path.read_bytes())
    data[data.index(weight.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)  # torch itself sees nothing
    assert "checksum" in refusal(path)


@pytest.mark.parametrize("environment", [None, "1"])
def test_code_in_a_file_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: str | None) -> None:
    if environment:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", environment)
    canary = tmp_path / "CANARY"
    zipped, bare = write(tmp_path / "zip.ckpt", extra=Payload(canary)), tmp_path / "pickle.ckpt"
    bare.write_bytes(pickle.dumps(content(extra=Payload(canary))))
    assert "system" in refusal(zipped)
    assert "bare pickle" in refusal(bare)
    assert not canary.exists()
    torch.load(zipped, weights_only=False)  # the payload is live
    assert canary.exists()


def test_objects_other_than_plain_data_are_named(tmp_path: Path) -> None:
    assert "pathlib" in refusal(write(tmp_path / "path.ckpt", extra=Path("x")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"detfuse": None}, ["not a checkpoint of detfuse", "epoch, state_dict"]),
        ({"version": 3}, ["detfuse.version", "str", "int"]),
        ({"config": [1]}, ["detfuse.config", "dict", "list"]),
        ({"config": {"a": {"b": [1, torch.ones(1)]}}}, ["config.a.b[1]", "Tensor"]),
        ({"config": {3: 1}}, ["config", "3", "no text"]),
        ({"categories": {"ids": [1]}}, ["categories.names", "None"]),
        ({"categories": {"ids": ["1"], "names": ["a"]}}, ["categories.ids"]),
        ({"categories": {"ids": [1, 1], "names": ["a", "b"]}}, ["id given twice: 1"]),
        ({"categories": {"ids": [], "names": []}}, ["malformed"]),
        ({"state_dict": {"head.weight": torch.ones(1)}}, ["no detector weights", "detector."]),
        ({"state_dict": 3}, ["'state_dict'"]),
        ({"ema": {}}, ["no detector weights"]),
        ({"epoch": "four"}, ["'epoch'", "int"]),
    ],
)
def test_malformed_parts_are_named(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    message = refusal(write(tmp_path / "odd.ckpt", **changes))
    assert [word for word in words if word not in message] == []


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    whole = content()
    del whole["detfuse"]["version"]
    torch.save(whole, tmp_path / "a.ckpt")
    assert "'detfuse.version' is missing" in refusal(tmp_path / "a.ckpt")
    torch.save(torch.zeros(3), tmp_path / "b.ckpt")
    assert "holds a Tensor" in refusal(tmp_path / "b.ckpt")


def test_a_newer_version_is_announced(tmp_path: Path) -> None:
    path = write(tmp_path / "new.ckpt", version="99.0.0")
    with pytest.warns(UserWarning, match=rf"new.ckpt.*99\.0\.0.*{version('detfuse')}"):
        assert read_checkpoint(path).version == "99.0.0"


def test_weights_are_loaded_all_or_none(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write(tmp_path / "a.ckpt"))
    detector = nn.Linear(3, 2)
    load_weights(detector, checkpoint)
    assert detector.weight.eq(1).all()
    for other, words in (
        (nn.Linear(3, 5), ["a.ckpt", "weight is (2, 3) in the file, (5, 3) in the detector", "bias"]),
        (nn.Sequential(nn.Linear(3, 2)), ["0.weight is not in the file", "weight is not in the detector"]),
    ):
        with pytest.raises(CheckpointError) as caught:
            load_weights(other, checkpoint)
        assert [word for word in words if word not in str(caught.value)] == []


def test_what_unpacks_to_more_than_the_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three megabytes may stand for three gigabytes, by packing or by entries that share their bytes."""
    packed, shared = tmp_path / "packed.ckpt", tmp_path / "shared.ckpt"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**6))
    with zipfile.ZipFile(shared, "w") as archive:
        for number in range(9):
            archive.writestr(f"archive/data/{number}", bytes(1000))
        archive.infolist()[1:] = []
        for number in range(100):
            again = zipfile.ZipInfo(f"archive/again/{number}")
            first = archive.infolist()[0]
            again.CRC, again.file_size, again.compress_size = first.CRC, first.file_size, first.compress_size
            again.header_offset = first.header_offset
            archive.filelist.append(again)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: pytest.fail("the entries were read"))
    assert "has 1," in refusal(packed)
    assert "unpacks to 1,000,000, but torch packs nothing" in refusal(packed)
    assert "unpacks to 101,000" in refusal(shared)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # of torch, about its own care
def test_weights_that_are_not_there_number_by_number_are_named(tmp_path: Path) -> None:
    for odd in (torch.eye(3).to_sparse(), torch.empty(3, device="meta"), torch.ones(1).expand(10**12)):
        message = refusal(write(tmp_path / "odd.ckpt", state_dict={"detector.head.weight": odd}))
        assert "head.weight is no plain tensor within the file" in message


def test_integers_are_no_weights(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    state = {f"detector.{key}": value.to(torch.int8) for key, value in layer.state_dict().items()}
    checkpoint = read_checkpoint(write(tmp_path / "int.ckpt", state_dict=state))
    with pytest.raises(CheckpointError, match=r"weight is torch\.int8 in the file, torch\.float32 in the detector"):
        load_weights(layer, checkpoint)
