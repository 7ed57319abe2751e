from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from omegaconf import OmegaConf

from detfuse.attention.inserts import Site
from detfuse.build import targets
from detfuse.config import check, conf_dir, help_text
from detfuse.config.location import group_options
from detfuse.config.signatures import signature_of

NO_GRAPH = "ssd_extras"
FILES = sorted(conf_dir().rglob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(conf_dir()).as_posix())
def test_every_target_is_detfuses_and_lists_its_arguments(file: Path) -> None:
    content = OmegaConf.to_container(OmegaConf.load(file))
    for path, target in targets(content):
        assert target.startswith("detfuse."), f"{path}: {target}"
        signature = signature_of(target)
        assert signature is not None
        node = OmegaConf.to_container(OmegaConf.select(OmegaConf.load(file), path)) if path else content
        assert isinstance(node, dict)
        given = {key for key in node if key not in {"_target_", "_partial_", "defaults"}}
        assert given == set(signature.configured), f"{path}: {target}"


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("train", []),
        ("ablate", []),
        ("evaluate", ["checkpoint=x.ckpt"]),
        ("predict", ["checkpoint=x.ckpt", "source=x.jpg"]),
        ("cost", []),
        ("compare", ["a=x.json", "b=[y.json]", "annotations=z.json"]),
        ("export", ["checkpoint=x.ckpt"]),
        ("export", ["checkpoint=x.ckpt", "format=pt2", "size=[64,96]", "combine=soft_nms", "combine.sigma=0.4"]),
    ],
)
def test_the_defaults_of_every_command_are_right(command: str, argv: list[str]) -> None:
    assert check(argv, command) == []


@pytest.mark.parametrize(
    ("command", "argv", "says"),
    [
        ("train", ["name=a b"], "names are made of letters"),
        ("train", [f"project={'x' * 300}"], "300 letters are too long"),
        ("train", ["resume=true", "overwrite=true"], "contradict each other"),
        ("train", ["++detector=a:b"], "must be a part, a node with a `_target_`"),
        ("ablate", ["report_only=true", "plan_only=true"], "goes with neither"),
        ("export", ["checkpoint=x.ckpt", "output=x.pt2"], "must end in .onnx"),
    ],
)
def test_what_no_signature_says_is_told_by_the_check_too(command: str, argv: list[str], says: str) -> None:
    (problem,) = check(argv, command)
    assert says in problem


def test_every_option_of_every_group_is_right() -> None:
    choices = {key: options for key, options in _choices().items() if key != "experiment"}
    choices["neck"].remove(NO_GRAPH)  # it brings no operator and no resampler to choose
    argv = ["-m", "data.root=x", *(f"{key}={','.join(options)}" for key, options in choices.items())]
    assert check(argv, "train") == []
    assert check([f"neck={NO_GRAPH}"], "train") == []


def test_a_neck_that_is_no_graph_has_no_place_for_an_operator() -> None:
    for override in ("operator=add", "resample@resample.up=nearest"):
        (problem,) = check([f"neck={NO_GRAPH}", override], "train")
        assert problem.startswith(f"neck={NO_GRAPH} (conf/neck/{NO_GRAPH}.yaml): brings no operator and no resample")


def test_what_necks_have_in_common_is_no_choice() -> None:
    (problem,) = check(["neck=_graph"], "train")
    assert problem.startswith("neck=_graph: there is no neck '_graph'; the options are: bifpn, early")
    assert "_graph" not in help_text("train")


def test_every_experiment_is_right() -> None:
    for experiment in _choices()["experiment"]:  # by itself: it sets options of the parts that it chooses
        assert check([f"experiment={experiment}", "data.root=x"], "train") == []


def test_every_ablation_page_is_right() -> None:
    for page in group_options([conf_dir()])["ablation"]:
        assert check([f"ablation={page}"], "ablate") == []


def _choices() -> dict[str, list[str]]:
    places = {
        "ablation": [],  # train has none
        "resample": ["resample@resample.up", "resample@resample.down"],
        "attention": [f"attention@attention.{site}" for site in get_args(Site)],
    }
    groups = group_options([conf_dir()])
    return {key: options for group, options in groups.items() for key in places.get(group, [group])}


def test_help_shows_every_option_and_the_syntax() -> None:
    text = help_text("train")
    for key, options in _choices().items():
        # places with the same options share the list below the last of them
        lines = text[text.index(f"  {key}=") :].splitlines()
        line = next(line for line in lines if not line.endswith("="))
        assert all(option in text[text.index(line) :].split("=", 2)[1] for option in options), key
    for part in ("resample@resample.up=bilinear", "+key=value", "--config-dir", "-m", "resume=", "seed=0"):
        assert part in text


def test_help_of_a_command_without_groups_shows_its_settings_only() -> None:
    text = help_text("compare")
    assert "annotations=(required)" in text
    assert "equivalence=0.005" in text
    assert "roup" not in text


def test_help_of_commands_on_checkpoints_shows_what_may_change() -> None:
    for command in ("evaluate", "predict", "export"):
        text = help_text(command)
        assert "checkpoint=(required)" in text
        assert "  combine=" in text
        assert "  neck=" not in text.split("How to write")[0]
