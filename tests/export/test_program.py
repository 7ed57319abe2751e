"""A ``.pt2`` from somebody else is read as data before torch opens it, which would run what it says."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detfuse.export import Description, ExportError, Resizing, read_exported, written
from detfuse.structures import Categories

MODEL, SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS = "data/weights/model_weights_config.json"
DESCRIPTION = Description("1", "m", Categories((1,), ("a",)), Resizing(None, 32, 64), 32, {})
Members = dict[str, bytes]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x[..., : x.shape[0] // 2].flatten()[: x.shape[0] * x.shape[1] - 1]


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with weights, sizes that depend on its input, and guards on them."""
    path = tmp_path_factory.mktemp("sound") / "x.pt2"
    sizes = {0: torch.export.Dim("a", min=4, max=64), 1: torch.export.Dim("b", min=2, max=64)}
    program = torch.export.export(Scaled(), (torch.zeros(8, 6),), dynamic_shapes=(sizes,))
    with written(path, "pt2", program, DESCRIPTION):
        pass
    return path


def changed(sound: Path, folder: Path, change: Callable[[Members], None]) -> Path:
    with zipfile.ZipFile(sound) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(folder / "x.pt2", "w") as archive:
        for name, content in members.items():
            archive.writestr(f"x/{name}", content)
    return folder / "x.pt2"


def replaced(name: str, old: str, new: str) -> Callable[[Members], None]:
    """One text of a member by another, quoted as JSON has it."""

    def change(members: Members) -> None:
        text = members[name].decode()
        assert old in text
        members[name] = text.replace(old, new, 1).encode()

    return change


def test_what_detfuse_writes_is_read_and_holds_no_pickle(sound: Path, tmp_path: Path) -> None:
    assert read_exported(sound).description == DESCRIPTION
    with zipfile.ZipFile(sound) as archive:
        model = json.loads(archive.read(next(name for name in archive.namelist() if name.endswith(MODEL))))
        assert archive.getinfo(next(name for name in archive.namelist() if name.endswith(SAMPLES))).file_size == 0
    assert model["guards_code"], "guards are in what is allowed"
    assert "expr_str" in json.dumps(model), "and sizes"
    assert read_exported(changed(sound, tmp_path, lambda members: None)).description == DESCRIPTION


def test_what_torch_would_run_is_refused_before_it_opens_the_file(sound: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = pickle.dumps(Payload(canary))
    code = f"__import__('pathlib').Path('{canary}').touch()"
    spec = json.dumps({"type": "collections.defaultdict", "context": ["this", "s"], "children_spec": []})
    with zipfile.ZipFile(sound) as archive:
        model = json.loads(archive.read(next(name for name in archive.namelist() if name.endswith(MODEL))))
    guard, symbol = model["guards_code"][0], next(iter(model["range_constraints"]))

    def edited(**parts: Any) -> Callable[[Members], None]:
        return lambda members: members.update({MODEL: json.dumps({**model, **parts}).encode()})

    for change, said in (
        (lambda members: members.update({SAMPLES: evil}), "has sample inputs"),
        (replaced(WEIGHTS, '"use_pickle": false', '"use_pickle": true'), "has weight pickled"),
        (replaced(WEIGHTS, "weight_0", "opaque_obj_0"), "has weight pickled"),
        (lambda members: members.update({"data/constants/custom_obj_0": evil}), "has the entry"),
        (lambda members: members.update({"data/weights/model.pt": evil}), "has the entry"),
        (replaced(MODEL, "torch.ops.aten.mul.Tensor", "torch.hub.load"), "calls 'torch.hub.load'"),
        (
            replaced(MODEL, "torch.ops.aten.mul.Tensor", "torch.ops.aten.from_file.default"),
            "calls 'torch.ops.aten.from",
        ),
        (replaced(MODEL, "_operator.floordiv", "_operator.methodcaller"), "calls '_operator.methodcaller'"),
        (replaced(MODEL, '"expr_str": "', '"expr_str": "exit() + '), "exit() + Symbol"),
        (edited(guards_code=[f"{guard} and {code}"]), "computes "),
        (edited(guards_code=[f"{guard} # {code}"]), "computes "),
        (edited(range_constraints={code: model["range_constraints"][symbol]}), "computes "),
        (edited(extra={"in_spec": spec}), "takes or returns 'collections.defaultdict'"),
        (edited(extra={"as_string": "../x"}), "passes '../x'"),
        (edited(extra={"as_operator": "torch.load"}), "calls 'torch.load'"),
    ):
        with pytest.raises(ExportError) as error:
            read_exported(changed(sound, tmp_path, change))
        assert said in str(error.value), (said, str(error.value))
        assert "export the checkpoint again" in str(error.value)
    assert not canary.exists()
    with suppress(Exception):
        torch.export.load(changed(sound, tmp_path, lambda members: members.update({SAMPLES: evil})))
    assert canary.exists(), "the payload is live"
