"""Keys in a user's own YAML files: what nothing reads is refused, at every depth and for every command."""

from __future__ import annotations

from pathlib import Path

import pytest
from yaml_files import write_yaml

from detfuse.cli import COMMANDS
from detfuse.cli.settings import AblateSettings
from detfuse.config import TrainSettings, check
from detfuse.config.resolve import resolve

_MISSPELT = """
    # @package _global_
    defaults:
      - /attention@attention.latral: se
    sed: 5
    evalute: last
    trainr: {max_epochs: 3}
    attention:
      levles: {lateral: [3]}
      levels: {latral: [3]}
      output: {_target_: detfuse.inserts.Levels}
      lateral: {ratoi: 4}
    resample:
      upp: {_target_: detfuse.fusion.resample.Nearest}
    detector: {men: [0, 0, 0]}
    module: 3
    combine: off
    callbacks:
      pictues: {threshold: 0.2}
      emaa: null
      ema: {decay: 0.9}
    logger:
      csv: {file_name: other.csv}
"""
_SAID = {
    "sed=5": "did you mean seed?",
    "evalute=last": "did you mean evaluate?",
    "trainr=...": "did you mean trainer?",
    "attention.latral=...": "did you mean lateral?",
    "attention.levles=...": "did you mean levels?",
    "attention.levels.latral=...": "did you mean lateral?",
    "attention.lateral.ratoi=4": "takes no ratoi",
    "attention.output._target_=detfuse.inserts.Levels": "it is detfuse.attention.inserts.Levels now",
    "resample.upp=...": "did you mean up?",
    "detector.men=...": "did you mean mean?",
    "module=3": "a node with a `_target_`",
    "combine=False": "as conf/combine/nms.yaml has",
    "callbacks.pictues=...": "did you mean pictures?",
    "callbacks.emaa=None": "did you mean ema?",
    "callbacks.ema=...": "callbacks=ema brings one",
    "logger.csv.file_name=other.csv": "any more: it is always metrics.csv",
}


@pytest.fixture
def my(tmp_path: Path) -> Path:
    return write_yaml(tmp_path / "my", {"experiment/wrong": _MISSPELT})


def test_every_misspelt_key_is_told_with_its_file(my: Path) -> None:
    problems = check(["--config-dir", str(my), "experiment=wrong"], TrainSettings)
    for key, says in _SAID.items():
        told = [problem for problem in problems if problem.startswith(f"{key} (")]
        assert len(told) == 1, (key, problems)
        assert says in told[0]
        assert ".yaml)" in told[0].partition(": ")[0]
    assert len(problems) == len(_SAID), problems


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("train", []),
        ("ablate", []),
        ("evaluate", ["checkpoint=x"]),
        ("predict", ["checkpoint=x", "source=y"]),
        ("export", ["checkpoint=x"]),
        ("cost", []),
        ("compare", ["a=x", "b=y", "annotations=z"]),
    ],
)
def test_no_command_takes_a_key_that_nothing_reads(tmp_path: Path, command: str, argv: list[str]) -> None:
    nms = "combine: {_target_: detfuse.ops.postprocess.Nms}"  # what every command on a checkpoint lets one choose
    files = {"extra/mine": "# @package _global_\nbathc: 3\n", "combine/mine": f"# @package _global_\nbathc: 3\n{nms}\n"}
    my = write_yaml(tmp_path / "my", files)
    chosen = "+extra=mine" if COMMANDS[command].settings.open_groups is None else "combine=mine"
    (problem,) = check(["--config-dir", str(my), chosen, *argv], COMMANDS[command].settings)
    assert problem.startswith(f"bathc=3 ({my}/{chosen.strip('+').replace('=', '/')}.yaml): there is no bathc")


def test_a_key_of_ones_own_is_told_how_to_do_without(tmp_path: Path) -> None:
    text = "# @package _global_\nwidth: 96\nneck: {out_channels: '${width}'}\n"
    my = write_yaml(tmp_path / "my", {"experiment/helper": text})
    (problem,) = check(["--config-dir", str(my), "experiment=helper"], TrainSettings)
    assert problem.startswith("width=96 (")
    assert "refer to where a value stands, as in ${neck.out_channels}" in problem


def test_what_is_right_stays_right(tmp_path: Path) -> None:
    text = """
        # @package _global_
        seed: 3
        evaluate: last
        neck: {out_channels: 32}
        head: {tower_channels: "${neck.out_channels}"}
        callbacks: {pictures: null, mine: {_target_: my.callbacks.Mine, every: 2}}
        logger: {tensorboard: null}
        hydra: {verbose: false}
    """
    my = write_yaml(tmp_path / "my", {"experiment/fine": text})
    (my / "callbacks.py").write_text("class Mine:\n    def __init__(self, *, every: int): ...\n")
    argv = ["--config-dir", str(my), "experiment=fine"]
    assert check([*argv, "project=p"], TrainSettings) == []
    found = resolve([*argv, "project=p"], TrainSettings).config
    assert (found["seed"], found["evaluate"], found["project"]) == (3, "last", "p")
    assert resolve([*argv, "seed=4"], TrainSettings).config["seed"] == 4


def test_an_ablations_page_has_the_keys_of_a_plan(tmp_path: Path) -> None:
    target = "_target_: detfuse.ablation.design.Ablation"
    pages = {
        "ablation/typo": f"{target}\nfactors: {{neck: [fpn, pafpn]}}\nsedes: [0, 1]\ncomon: {{head: ssd}}\n",
        "ablation/bare": "factors: {neck: [fpn, pafpn]}\n",
        "ablation/ranges": f"{target}\nfactors: {{neck: [fpn, pafpn]}}\nseeds: [-1]\nequivalence: 2.0\n",
    }
    argv = ["--config-dir", str(write_yaml(tmp_path / "my", pages))]
    comon, sedes = sorted(check([*argv, "ablation=typo"], AblateSettings))
    assert "takes no comon; did you mean common?" in comon
    assert sedes.startswith(f"ablation.sedes=... ({tmp_path}/my/ablation/typo.yaml): ")
    (bare,) = check([*argv, "ablation=bare"], AblateSettings)
    assert "as conf/ablation/quickstart.yaml has" in bare
    assert len(check([*argv, "ablation=ranges"], AblateSettings)) == 2
