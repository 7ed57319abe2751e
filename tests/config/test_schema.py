"""The generic half of the check, on a configuration of other words than detfuse's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from yaml_files import write_yaml

from detfuse.config import conf_dir, group_options
from detfuse.config.schema.check import OverridesCheck
from detfuse.config.schema.compose import composer_of
from detfuse.config.schema.frame import frame_of
from detfuse.config.schema.keys import Schema
from detfuse.config.schema.overrides import read_command_line

_PARTS = """
class Engine:
    def __init__(self, fuel, air_left, *, power: int = 3, turbo: bool = False): ...
class Wind:
    def __init__(self, *, blades: int = 3): ...
def tank(*, litres: float = 40.0): ...
"""
_CONF = {
    "drive": "{defaults: [{engine: petrol}, _self_], speed: 50}",
    # what begins an option's file is no option
    "engine/_any": "{defaults: [/tank@_global_.fuel: small, /tank@_global_.air.left: small, _self_],"
    " _target_: car.Engine, power: 3, turbo: false}",
    "engine/petrol": "{defaults: [_any, _self_], power: 5}",
    "engine/diesel": "{defaults: [_any, override /tank@_global_.fuel: large, _self_], turbo: true}",
    "tank/small": "{_target_: car.tank, litres: 40.0}",
    "tank/large": "{_target_: car.tank, litres: 90.0}",
}


@dataclass(frozen=True, kw_only=True)
class Drive:
    speed: int


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    (tmp_path / "car.py").write_text(_PARTS)
    return write_yaml(tmp_path / "conf", _CONF)


def mistakes(argv: list[str], shipped: Path, user: Path | None = None) -> list[str]:
    schema = Schema(
        "drive",
        frame_of(shipped, "drive"),
        Drive,
        (shipped.parent,),
        lambda target: target.replace("Motor", "Engine"),
        lambda target, argument: " any more: cars have none;" if argument == "choke" else "",
    )
    return OverridesCheck(composer_of(shipped, user, "drive"), schema).run(read_command_line(argv, shipped).choices)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("engine=diesel", None),
        ("tank@air.left=large", None),
        ("speed=70", None),
        ("engine=_any", "the options are: diesel, petrol"),
        ("engine=disel", "did you mean diesel?"),
        ("engine.powr=3", "did you mean power?"),
        ("engine.power=much", "engine.power=much (command line): expected int"),
        ("tank=large", "tank is chosen by its place; write tank@fuel=large or tank@air.left=large"),
        ("~tank@air.left", "air.left is missing: engine needs it; choose one by tank@air.left=..."),
        ("~engine", "choose one by engine=..., whose YAML has a `_target_` as conf/engine/_any.yaml has"),
        ("+engine.choke=1", "there is no engine.choke"),
        ("+engine.fuel=1", "is given fuel by detfuse itself"),
        ("sped=3", "did you mean speed?"),
    ],
)
def test_every_kind_of_mistake_is_told(shipped: Path, override: str, says: str | None) -> None:
    problems = mistakes([override], shipped)
    assert len(problems) == (says is not None), problems
    assert says is None or says in problems[0]


def test_an_option_that_brings_nothing_is_told_how_to_begin(shipped: Path, tmp_path: Path) -> None:
    options = {
        "engine/bare": "{_target_: car.Engine, power: 3, turbo: false}",
        "engine/wind": "{_target_: car.Wind, blades: 3}",
        "engine/old": "{defaults: [_any, _self_], _target_: car.Engine, choke: 1}",
        "engine/gone": "{defaults: [_any, _self_], _target_: car.Motor}",
    }
    user = write_yaml(tmp_path / "my", options)
    argv = ["--config-dir", str(user)]
    for more in ([], ["tank@fuel=large"]):
        (problem,) = mistakes([*argv, "engine=bare", *more], shipped, user)
        assert f"engine=bare ({user}/engine/bare.yaml): brings no fuel and no air, so there is no place" in problem
        assert "`defaults: [_any, _self_]`" in problem
    assert mistakes([*argv, "engine=wind"], shipped, user) == []
    (old,) = mistakes([*argv, "engine=old"], shipped, user)
    assert "car.Engine takes no choke any more: cars have none; it takes: power, turbo" in old
    (gone,) = mistakes([*argv, "engine=gone"], shipped, user)
    assert "it is car.Engine now" in gone


def test_a_file_that_changes_is_read_again(shipped: Path) -> None:
    assert mistakes([], shipped) == []
    write_yaml(shipped, {"engine/petrol": "{defaults: [_any, _self_], power: many}"})
    (problem,) = mistakes([], shipped)
    assert problem.startswith("engine.power=many (conf/engine/petrol.yaml)")


def test_it_knows_no_group_by_name() -> None:
    folder = Path(__file__).resolve().parents[2] / "detfuse" / "config" / "schema"
    code = {file.name: file.read_text() for file in folder.glob("*.py")}
    assert len(code) > 5
    named = [
        (file, group)
        for file, text in code.items()
        for group in (*group_options([conf_dir()]), "detfuse")
        if re.search(rf'("|``){group}\b', text)
    ]
    assert named == []
