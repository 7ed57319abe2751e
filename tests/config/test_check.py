from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from yaml_files import write_yaml

from detfuse.cli.settings import EvaluateSettings
from detfuse.config import TrainSettings, check


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["neck=pafpn", "operator=complex", "operator.readout=conv", "resample@resample.up=bilinear"],
        ["neck.out_channels=3", "neck.topology.extra_levels=1"],
        ["data=folder", "data.root=/x", "data.limit=null", "data.limit=3"],
        ["trainer.limit=1", "trainer.limit=0.5", "trainer.devices=auto", "data.transform.flip=1"],
        ["-m", "neck=fpn,pafpn", "operator=add,complex", "seed=0,1", "seed=range(0,3)"],
        ["neck=fpn,pafpn", "-m", "seed=0,1"],
        ["backbone.levels=[2,3]", "neck.nodes=[{name: f4, level: 4}]"],
        ["hydra.verbose=true", "--cfg", "job"],
        ["resume=true"],
        ["resume=runs/default/a-2"],
        ["neck.topology=null"],
        ["trainer.max_epochs=${seed}"],
        ["-m", "neck=glob(*)"],
    ],
)
def test_a_right_command_line_has_no_problems(tiny_conf: Path, argv: list[str]) -> None:
    assert check(argv, TrainSettings, tiny_conf) == []


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("neck=fnp", ["neck=fnp", "did you mean fpn?", "options", "fpn, pafpn"]),
        ("neck.out_chanels=3", ["neck.out_chanels=3", "did you mean out_channels?"]),
        ("+neck.out_chanels=3", ["did you mean out_channels?"]),
        ("++neck.out_chanels=3", ["did you mean out_channels?"]),
        ("+neck.in_spec=3", ["given in_spec by detfuse itself"]),
        ("neck.in_spec=3", ["given in_spec by detfuse itself"]),
        ("neck.out_channels=wide", ["neck.out_channels=wide (command line)", "expected int", "'wide'"]),
        ("neck.out_channels=1.5", ["expected int", "1.5"]),
        ("neck.out_channels=true", ["expected int", "True"]),
        ("neck.out_channels=null", ["expected int", "None"]),
        ("+neck.out_channels=3", ["there already", "write neck.out_channels=3"]),
        ("backbone.norm=frozn", ["one of train, frozen", "did you mean frozen?"]),
        ("backbone.levels=[3,x]", ["Sequence[int]"]),
        ("neck.topology=pafpn", ["neck.topology=pafpn", "expected Topology | None"]),
        ("data.transform.short_sid=3", ["did you mean short_side?"]),
        ("data.transform.flip=much", ["expected float"]),
        ("dta.root=3", ["there is no dta", "did you mean data?"]),
        ("max_epochs=3", ["did you mean trainer.max_epochs?"]),
        ("sed=3", ["did you mean seed?"]),
        ("+sed=3", ["did you mean seed?"]),
        ("seed=zero", ["expected int"]),
        ("resume=3", ["expected bool | str"]),
        ("resample=bilinear", ["resample@resample.up=bilinear or resample@resample.down=bilinear"]),
        ("resample.up=bilinear", ["resample.up is a part", "write resample@resample.up=bilinear"]),
        ("resample@resample.upp=bilinear", ["resample@resample.up=bilinear"]),
        ("resample@resample.up=bilinaer", ["did you mean bilinear?"]),
        ("+neck=pafpn", ["write neck=pafpn"]),
        ("neck=fpn,pafpn", ["add -m"]),
        ("seed=0,1", ["add -m"]),
        ("neck", ["key=value"]),
        ("project=a=b", ["quote"]),
        ("data=folder", ["data.root is missing: give data.root="]),
        ("~trainer.epochs", ["trainer.epochs"]),
        ("hydra.searchpath=[x]", ["--config-dir"]),
        ("--epochs", ["no such flag"]),
        ("operator.readout=conv", ["there is no operator.readout"]),
        ("trainer.max_epochs=${nothing}", ["nothing"]),
        ("~data.transform", ["data.transform is missing"]),
        ("~neck", ["neck is missing", "choose one by neck="]),
        ("~seed", ["seed is missing", "train needs it"]),
        ("~resample@resample.up", ["resample.up is missing", "resample@resample.up="]),
        ("neck.topology=[1]", ["neck.topology=[1] (command line)", "expected Topology | None"]),
        ("trainer.max_epochs=nan", ["expected int"]),
        ("data.transform.flip=nan", ["expected float"]),
        ("--config-name=x", ["--config-name", "experiment"]),
        ("--config-name=evaluate", ["--config-name", "experiment"]),
        ("--resolve", ["--cfg job"]),
        ("=3", ["there is no"]),
    ],
)
def test_a_mistake_is_told_with_the_remedy(tiny_conf: Path, override: str, says: list[str]) -> None:
    problem = only(check([override], TrainSettings, tiny_conf))
    for text in says:
        assert text in problem


def test_mistakes_of_every_kind_are_told_together(tiny_conf: Path) -> None:
    argv = ["neck=fnp", "+neck.out_chanels=3", "backbone.norm=frozn", "seed=zero", "project=a=b", "experiment=wrong"]
    problems = check(argv, TrainSettings, tiny_conf)
    for text in ("fnp", "out_chanels", "frozn", "zero", "a=b", "angle", "many"):
        assert sum(text in problem for problem in problems) == 1, (text, problems)
    assert len(problems) == 7


def test_a_value_says_which_file_it_came_from(tiny_conf: Path) -> None:
    readout, epochs = sorted(check(["experiment=wrong"], TrainSettings, tiny_conf))
    assert "operator.readout=angle (conf/experiment/wrong.yaml)" in readout
    assert "modulus, conv" in readout
    assert "trainer.max_epochs=many (conf/experiment/wrong.yaml)" in epochs


def test_the_command_line_beats_the_experiment(tiny_conf: Path) -> None:
    assert check(["experiment=wrong", "operator.readout=conv", "trainer.max_epochs=1"], TrainSettings, tiny_conf) == []
    problem = only(check(["experiment=wrong", "operator=add", "trainer.max_epochs=1"], TrainSettings, tiny_conf))
    assert "operator.readout=angle (conf/experiment/wrong.yaml)" in problem
    assert "takes no readout" in problem


def test_each_option_of_a_sweep_is_checked(tiny_conf: Path) -> None:
    assert "'fnp'" in only(check(["-m", "neck=fpn,fnp,pafpn"], TrainSettings, tiny_conf))
    assert "'x'" in only(check(["-m", "neck=fpn,pafpn", "seed=0,x"], TrainSettings, tiny_conf))
    problem = only(check(["-m", "operator=complex,add", "operator.readout=conv"], TrainSettings, tiny_conf))
    assert "operator.readout" in problem


@pytest.mark.parametrize(
    "override",
    ["seed=choice(1,2),3", "seed=a,interval(0,1)", "seed=interval(0,1)", "seed=range(0,3),5", "project=a,choice(b,c)"],
)
def test_a_sweep_without_a_list_of_values_is_told(tiny_conf: Path, override: str) -> None:
    assert only(check(["-m", override], TrainSettings, tiny_conf)) == (
        f"{override}: this sweep has no list of values; write them out: a,b,c"
    )


def test_ranges_are_read_from_the_signatures(tiny_conf: Path) -> None:
    parts = tiny_conf.parent / "tiny" / "parts.py"
    parts.write_text(
        parts.read_text()
        .replace("short_side: int", "short_side: PositiveInt")
        .replace("flip: float", "flip: Annotated[float, Range(at_least=0, below=1)]")
        .replace("levels: Sequence[int]", "levels: Sequence[PositiveInt]")
        .replace("max_epochs: int", "max_epochs: Annotated[int, Range(at_least=2 - 1)]")  # the part itself holds it
        .replace(
            "from typing import Any", "from detfuse.ranges import PositiveInt, Range\nfrom typing import Annotated, Any"
        )
    )
    right = ["trainer.max_epochs=0", "data.transform.short_side=1", "data.transform.flip=0.99", "backbone.levels=[1]"]
    assert check(right, TrainSettings, tiny_conf) == []
    wrong = ["data.transform.short_side=0", "data.transform.flip=1", "backbone.levels=[3,0]", "seed=-1"]
    said = "\n".join(check(wrong, TrainSettings, tiny_conf))
    assert "data.transform.short_side=0 (command line): expected int (at least 1), got 0" in said
    assert "data.transform.flip=1 (command line): expected float (in 0..1, 1 excluded), got 1" in said
    assert "backbone.levels=[3,0] (command line): expected Sequence[int (at least 1)], got [3, 0]" in said
    assert "seed=-1 (command line): expected int (in 0..4294967295), got -1" in said
    for value in ("nan", "inf", "-inf"):
        assert "got" in only(check([f"data.transform.flip={value}"], TrainSettings, tiny_conf))


def test_a_private_neck_and_its_targets(tiny_conf: Path, tmp_path: Path) -> None:
    my = write_yaml(
        tmp_path / "my",
        {
            "neck/mine": "{defaults: [fpn, _self_], topology: null, nodes: [{name: f4, level: 4}]}",
            "neck/bare": "{_target_: tiny.parts.GraphNeck, nodes: [{name: f4, level: 4}]}",
            "neck/pool": "{_target_: my.necks.Pool, size: 3}",
            "neck/typo": "{_target_: my.necks.Pol}",
            "neck/lost": "{_target_: my.nekcs.Pool}",
            "neck/idle": "{defaults: [/operator@_global_.operator: add, _self_], _target_: my.necks.Pool, size: 3}",
        },
    )
    (my / "necks.py").write_text("class Pool:\n    def __init__(self, in_spec, *, size: int): ...\n")
    flag = ["--config-dir", str(my)]
    assert check([*flag, "neck=mine"], TrainSettings, tiny_conf) == []
    assert check([*flag, "neck=mine", "operator=complex"], TrainSettings, tiny_conf) == []
    assert check([*flag, "neck=pool"], TrainSettings, tiny_conf) == []
    for argv in (["neck=bare"], ["neck=bare", "operator=complex"]):
        assert "begin it with `defaults: [fpn, _self_]`" in only(check([*flag, *argv], TrainSettings, tiny_conf))
    idle = only(check([*flag, "neck=idle"], TrainSettings, tiny_conf))
    assert "brings operator, which my.necks.Pool does not take; leave it out of its defaults" in idle
    assert "did you mean Pool?" in only(check([*flag, "neck=typo"], TrainSettings, tiny_conf))
    assert "no module 'my.nekcs'" in only(check([*flag, "neck=lost"], TrainSettings, tiny_conf))


def test_a_private_file_may_not_hide_behind_a_shipped_name(tiny_conf: Path, tmp_path: Path) -> None:
    my = write_yaml(tmp_path / "my", {"neck/fpn": "{}", "neck/mine": "{}"})
    problem = only(check(["--config-dir", str(my)], TrainSettings, tiny_conf))
    assert "neck/fpn.yaml" in problem
    assert "another name" in problem
    assert "no such folder" in only(check(["--config-dir", str(tmp_path / "yours")], TrainSettings, tiny_conf))


def test_commands_that_start_from_a_checkpoint(tiny_conf: Path) -> None:
    given = ["checkpoint=a.ckpt"]
    assert check(given, EvaluateSettings, tiny_conf) == []
    assert "checkpoint is missing: give checkpoint=" in only(check([], EvaluateSettings, tiny_conf))
    for override in ("neck=pafpn", "neck.out_channels=3", "operator=complex", "backbone.name=x"):
        assert "the checkpoint decides" in only(check([*given, override], EvaluateSettings, tiny_conf))
    assert "there is no sed" in only(check([*given, "sed=1"], EvaluateSettings, tiny_conf))
    # The checkpoint may come from any kind of data, so a key is right if one of them has it.
    assert check([*given, "data.root=x", "data.val_annotations=y"], EvaluateSettings, tiny_conf) == []
    assert "val_annotation" in only(check([*given, "data.val_annotation=y"], EvaluateSettings, tiny_conf))


def test_nothing_heavy_is_imported(tiny_conf: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from detfuse.config import TrainSettings, check\n"
        f"assert len(check(['neck=fnp', 'sed=1'], TrainSettings, Path({str(tiny_conf)!r}))) == 2\n"
        "heavy = {'torch', 'torchvision', 'pytorch_lightning', 'timm', 'numpy', 'tiny.parts'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
