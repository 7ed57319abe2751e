from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from omegaconf import OmegaConf

from detfuse.attention.inserts import Site
from detfuse.cli import COMMANDS
from detfuse.cli.settings import AblateSettings, EvaluateSettings, PredictSettings
from detfuse.config import TrainSettings, check, conf_dir, group_options, read_command_line, replacements
from detfuse.config.schema.signatures import signature_of
from detfuse.config.vouched import marked

NO_GRAPH = "ssd_extras"
FILES = sorted(conf_dir().rglob("*.yaml"))
ASKS = {"factors", "arms", "common"}  # what an ablation's page is about: no default would do


def _content(file: Path) -> dict[str, Any]:
    """What a file says, with the keys of those of its group that it begins with."""
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert isinstance(content, dict)
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_" and file.parent != conf_dir():
            content = _content(file.with_name(f"{entry}.yaml")) | content
    return {str(key): value for key, value in content.items()}


def _nodes(content: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Key, target and arguments of every node."""
    for place, marks in marked(content):
        path, target = ".".join(map(str, place)), marks["_target_"]
        node = OmegaConf.to_container(OmegaConf.select(OmegaConf.create(content), path)) if path else content
        assert isinstance(node, dict)
        yield path, target, {str(k): v for k, v in node.items() if k not in {"_target_", "_partial_"}}


def _lines(node: yaml.Node, path: str = "") -> Iterator[tuple[str, int]]:
    """Every key of a file with the line that it stands in."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        below = f"{path}.{key.value}".lstrip(".")
        yield below, key.start_mark.line
        yield from _lines(value, below)


def _defaults(target: str) -> dict[str, Any]:
    """The defaults of what a YAML may set."""
    module, _, name = target.rpartition(".")
    part = getattr(import_module(module), name)
    made = {f.name: f.default_factory for f in fields(part)} if is_dataclass(part) else {}
    signature = signature_of(target)
    assert signature is not None
    return {
        name: list(default) if isinstance(default, tuple) else default
        for name, parameter in inspect.signature(part).parameters.items()
        if name in signature.configured and parameter.default is not inspect.Parameter.empty
        for default in [made[name]() if made.get(name, MISSING) is not MISSING else parameter.default]
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(conf_dir()).as_posix())
def test_every_target_is_detfuses_and_lists_its_arguments(file: Path) -> None:
    for path, target, node in _nodes(_content(file)):
        assert target.startswith("detfuse."), f"{path}: {target}"
        signature = signature_of(target)
        assert signature is not None
        assert set(node) == set(signature.configured), f"{path}: {target}"


def test_there_is_one_truth_on_defaults() -> None:
    """A notebook builds what the commands build; a file that means otherwise says why: ``# not the default: ...``."""
    wrong = []
    for file in FILES:
        text = file.read_text()
        written = dict(_lines(yaml.compose(text) or yaml.MappingNode("", [])))
        for path, target, node in _nodes(_content(file)):
            for name, default in _defaults(target).items():
                key = f"{path}.{name}".lstrip(".")
                is_part = isinstance(node[name], dict) and "_target_" in node[name]
                if key in written and not is_part and name not in ASKS:
                    says_why = re.search("not the default: [a-zA-Z]", text.splitlines()[written[key]]) is not None
                    if (node[name] != default) is not says_why:
                        wrong.append(f"{file.name}: {key} is {node[name]!r}, the default of {target} is {default!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("train", []),
        ("ablate", []),
        ("evaluate", ["checkpoint=x.ckpt"]),
        ("predict", ["checkpoint=x.ckpt", "source=x.jpg"]),
        ("cost", []),
        ("compare", ["a=x.json", "b=[y.json]", "annotations=z.json"]),
        ("convert", ["data.root=x", "output=x"]),
        ("browse", ["data.root=x"]),
        ("check", ["data.root=x", "experiment=bccd_fcos_r18", "only=[leaks,near-leaks]", "fast=true"]),
        ("export", ["checkpoint=x.ckpt"]),
        ("export", ["checkpoint=x.ckpt", "format=pt2", "output=x.pt2", "combine=soft_nms", "combine.sigma=0.4"]),
    ],
)
def test_the_defaults_of_every_command_are_right(command: str, argv: list[str]) -> None:
    assert check(argv, COMMANDS[command].settings) == []


@pytest.mark.parametrize(
    ("command", "argv", "says"),
    [
        ("train", ["name=a b"], "names are made of letters"),
        ("train", [f"project={'x' * 300}"], "300 letters are too long"),
        ("train", ["resume=true", "overwrite=true"], "contradict each other"),
        ("train", ["++detector=a:b"], "must be a part, a node with a `_target_`"),
        ("ablate", ["report_only=true", "plan_only=true"], "goes with neither"),
        ("export", ["checkpoint=x.ckpt", "output=x.pt2"], "must end in .onnx"),
        ("browse", ["data.root=x", "output=x.json"], "must end in .html"),
    ],
)
def test_what_no_signature_says_is_told_by_the_check_too(command: str, argv: list[str], says: str) -> None:
    (problem,) = check(argv, COMMANDS[command].settings)
    assert says in problem


def test_every_option_of_every_group_is_right_at_every_place() -> None:
    necks = _choices().pop("neck")  # not all bring an operator
    choices = {key: options for key, options in _choices().items() if key not in {"experiment", "neck"}}
    turns = [
        [f"{key}={options[turn % len(options)]}" for key, options in choices.items()]
        for turn in range(max(map(len, choices.values())))
    ]
    for argv in [*turns, *([f"neck={neck}"] for neck in necks)]:
        assert check(["data.root=x", *argv], TrainSettings) == []


def test_a_neck_that_is_no_graph_has_no_place_for_an_operator() -> None:
    for override in ("operator=add", "resample@resample.up=nearest"):
        (problem,) = check([f"neck={NO_GRAPH}", override], TrainSettings)
        assert problem.startswith(f"neck={NO_GRAPH} (conf/neck/{NO_GRAPH}.yaml): brings no operator and no resample")


def test_what_necks_have_in_common_is_no_choice() -> None:
    (problem,) = check(["neck=_graph"], TrainSettings)
    assert problem.startswith("neck=_graph: there is no neck '_graph'; the options are: bifpn, dense_pyramid, early")
    assert "_graph" not in COMMANDS["train"].help()


def test_every_experiment_is_right() -> None:
    for experiment in _choices()["experiment"]:  # by itself: it sets options of the parts that it chooses
        assert check([f"experiment={experiment}", "data.root=x"], TrainSettings) == []


def test_every_ablation_page_is_right() -> None:
    for page in group_options([conf_dir()])["ablation"]:
        assert check([f"ablation={page}"], AblateSettings) == []


def _choices() -> dict[str, list[str]]:
    places = {
        "ablation": [],  # train has none
        "resample": ["resample@resample.up", "resample@resample.down"],
        "attention": [f"attention@attention.{site}" for site in get_args(Site)],
    }
    groups = group_options([conf_dir()])
    return {key: options for group, options in groups.items() for key in places.get(group, [group])}


def test_help_shows_every_option_and_the_syntax() -> None:
    text = COMMANDS["train"].help()
    for key, options in _choices().items():
        # places with the same options share the list below the last of them
        lines = text[text.index(f"  {key}=") :].splitlines()
        line = next(line for line in lines if not line.endswith("="))
        assert all(option in text[text.index(line) :].split("=", 2)[1] for option in options), key
    for part in ("resample@resample.up=bilinear", "+key=value", "--config-dir", "-m", "resume=", "seed=0"):
        assert part in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_setting(command: str) -> None:
    lines = COMMANDS[command].help().splitlines()
    shown = lines[lines.index("Settings of the command:") + 1 :]
    names = [field.name for field in fields(COMMANDS[command].settings)]
    for line, name in zip(shown, names, strict=False):
        assert re.match(rf"  {name}=\S+ +\S.*[^.]$", line), line
    assert not shown[len(names)]


def test_help_of_a_command_without_groups_shows_its_settings_only() -> None:
    text = COMMANDS["compare"].help()
    assert "annotations=(required)" in text
    assert "equivalence=0.005" in text
    assert "roup" not in text


def test_help_of_commands_on_checkpoints_shows_what_may_change() -> None:
    for command in ("evaluate", "predict", "export"):
        text = COMMANDS[command].help()
        assert "checkpoint=(required)" in text
        assert "  combine=" in text
        assert "  neck=" not in text.split("How to write")[0]


def test_published_weights_take_the_place_of_a_checkpoint() -> None:
    given = ["experiment=fasterrcnn_mobilenet_v3_large_320_fpn", "weights=torchvision"]
    assert check([*given, "data.root=x", "head.proposals=7"], EvaluateSettings) == []
    assert check([*given, "source=x.jpg"], PredictSettings) == []
    assert "but not both" in check([*given, "data.root=x", "checkpoint=a.ckpt"], EvaluateSettings)[0]
    assert "checkpoint is missing" in check(["data=coco", "data.root=x"], EvaluateSettings)[0]
    line = read_command_line(given, conf_dir())
    assert replacements(line, EvaluateSettings)["weights=torchvision"] == ["weights=torchvision", "checkpoint=null"]
