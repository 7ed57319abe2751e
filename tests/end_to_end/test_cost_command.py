"""``cost`` shows every operator in a neck, also those that have no effect or are refused. Its times are not judged."""

from __future__ import annotations

import json
from pathlib import Path

from commands import run

from detfuse.config import conf_dir, group_options

QUICK = ("size=[60,64]", "batch=1", "rounds=2", "neck.out_channels=8")
OPERATORS = group_options([conf_dir()])["operator"]


def rows(printed: str) -> dict[str, list[str]]:
    """The table: name of the operator -> its cells."""
    lines = printed.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("---"))
    table = lines[start + 1 : lines.index("", start)]
    return {line.split()[0]: line.replace(" * ", "   ").split()[1:] for line in table}


def test_every_operator_is_a_row_beside_add(tmp_path: Path) -> None:
    printed = run(
        "cost", *QUICK, "operator=complex", "operator.readout=complex_conv", "output=cost.json", folder=tmp_path
    )
    table = rows(printed.stdout)
    assert list(table) == ["add", *(name for name in OPERATORS if name != "add")]
    assert "1 of 64 x 64 pixels" in printed.stdout
    assert "complex *" in printed.stdout
    written = json.loads((tmp_path / "cost.json").read_text())["operators"]
    assert sorted(written) == OPERATORS
    extra = {name: written[name]["parameters"] - written["add"]["parameters"] for name in OPERATORS}
    nodes, width = 2, 8
    assert extra["concat"] == nodes * (2 * width + 1) * width
    assert extra["complex"] == nodes * 2 * width * width  # as typed: a complex convolution
    assert extra["softmax"] == nodes * 2
    assert extra["mean"] == extra["max"] == 0
    assert (table["add"][3], table["mean"][3]) == ("1.00", f"{scale_of('mean', written):.2f}")
    assert scale_of("mean", written) < 0.8
    for name in OPERATORS:
        assert table[name][0] == f"{written[name]['parameters']:,}"


def scale_of(name: str, operators: dict[str, dict[str, float]]) -> float:
    """By that of add."""
    return operators[name]["start_scale"] / operators["add"]["start_scale"]


def test_a_neck_that_fuses_nothing_is_one_row_that_says_so(tmp_path: Path) -> None:
    printed = run("cost", *QUICK, "neck=unfused", folder=tmp_path).stdout
    assert list(rows(printed)) == ["any"]
    assert "Any operator costs the same here: no node has two inputs" in printed
    assert list(tmp_path.iterdir()) == []


def test_refused_and_pinned_operators_are_shown_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "my" / "neck"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "defaults: [fpn, override /operator@_global_.operator: concat, _self_]\n"
        "topology: null\n"
        "nodes:\n"
        "  - {name: f4, level: 4, inputs: [c3, c4], operator: max}\n"
        "  - {name: f5, level: 5, inputs: [f4, c5], project: false}\n"
        "outputs: [f4, f5]\n"
    )
    (tmp_path / "my" / "operator").mkdir()
    (tmp_path / "my" / "operator" / "ours.yaml").write_text("_target_: detfuse.fusion.operators.Concat\n")
    printed = run("cost", *QUICK, "--config-dir", "my", "neck=mine", folder=tmp_path).stdout
    table = rows(printed)
    assert sorted(table) == sorted([*OPERATORS, "ours"])
    assert {name for name, cells in table.items() if cells[0] == "refused"} == set(OPERATORS) - {"concat"}
    assert table["ours"][:3] == table["concat"][:3]
    assert "add is refused: node 'f5' (inputs f4, c5): add needs maps of one width, got [8, 512]" in printed
    assert "Pinned by the neck, the same in every row: f4: max." in printed
    assert "time by that of concat" in printed


def test_a_neck_that_nothing_can_build_is_a_mistake(tmp_path: Path) -> None:
    wrong = run("cost", *QUICK, "resample@resample.up=max_pool", folder=tmp_path, fails=True)
    assert wrong.stderr.splitlines()[-1].startswith("  softmax: ")
    assert "neck=fpn can be built with no operator" in wrong.stderr
    assert "Traceback" not in wrong.stderr
