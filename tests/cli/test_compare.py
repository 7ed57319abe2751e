"""``compare`` on files, through the command."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detfuse.cli.compare_run import run
from detfuse.errors import UserError
from detfuse.runs.invocation import Invocation


def command(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    code = [sys.executable, "-c", "from detfuse.cli import compare; compare()"]
    return subprocess.run([*code, *argv], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def compare(a: str | list[str], b: str | list[str], **settings: Any) -> None:
    """The command's job in this process: without importing everything again."""
    config = {"a": a, "b": b, "annotations": "val.json", "equivalence": 0.005, "output": None} | settings
    run(Invocation(config, [], {}, False, []))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Annotations of 30 images, and three files of predictions per side: a finds more than b."""
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.uniform(0, 99, (60, 2)), rng.uniform(20, 90, (60, 2))]).tolist()
    rows = [{"image_id": n // 2, "category_id": 3 + n % 2, "bbox": box} for n, box in enumerate(boxes)]
    truth = {
        "images": [{"id": i} for i in range(30)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog, small"}, {"id": 5, "name": "bird"}],
        "annotations": [row | {"id": n} for n, row in enumerate(rows)],
    }
    (tmp_path / "val.json").write_text(json.dumps(truth))
    for side, share in (("a", 0.95), ("b", 0.5)):
        for seed in range(3):
            found = [row | {"score": float(rng.uniform(0.1, 1))} for row in rows if rng.random() < share]
            (tmp_path / f"{side}{seed}.json").write_text(json.dumps(found))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_files_are_compared_over_images(folder: Path) -> None:
    before = sorted(folder.iterdir())
    done = command(folder, "a=a0.json", "b=b0.json", "annotations=val.json")
    assert done.returncode == 0, done.stderr
    assert "val.json: 30 images, 60 objects" in done.stdout
    assert "dog, small" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("a is better than b on images like these; seeds are not covered: +")
    assert sorted(folder.iterdir()) == before


def test_lists_are_seeds_and_everything_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(*([f"{side}{seed}.json" for seed in range(3)] for side in "ab"), output="out")
    printed = capsys.readouterr().out
    assert "a is better than b: +" in printed
    assert "seeds are not covered" not in printed
    content: dict[str, Any] = json.loads((folder / "out" / "comparison.json").read_text())
    (comparison,) = content["comparisons"]
    assert comparison["verdict"]["kind"] == "better"
    assert comparison["seeds"] == [0, 1, 2]
    lines = {row["metric"]: row for row in csv.DictReader((folder / "out" / "comparison.csv").read_text().splitlines())}
    assert list(lines)[:6] == ["mAP", "AP50", "AP75", "APs", "APm", "APl"]
    main = comparison["differences"][0]
    assert float(lines["mAP"]["difference"]) == main["estimate"] > 0
    assert float(lines["mAP"]["a"]) - float(lines["mAP"]["b"]) == pytest.approx(main["estimate"])
    assert lines["mAP/dog, small"]["p_corrected"] == ""
    assert lines["mAP/bird"]["difference"] == ""


@pytest.mark.usefixtures("folder")
def test_the_same_file_on_both_sides_is_identical(capsys: pytest.CaptureFixture[str]) -> None:
    compare("a0.json", "a0.json")
    assert capsys.readouterr().out.splitlines()[-1] == "a and b are identical, detection by detection."


def test_wrong_files_are_told_together(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        compare(["a0.json", "a0.json", "."], ["b0.json", "none.json"], output="out")
    assert str(caught.value).splitlines() == [
        "4 mistakes:",
        "  a: a0.json is given twice; each file is one seed",
        "  a has 3 files and b has 2: they are paired in the order given, one pair per seed",
        "  a: . is a folder, give a file",
        "  b: none.json does not exist",
    ]
    assert not (folder / "out").exists()


def test_predictions_of_other_data_are_named(folder: Path) -> None:
    (folder / "a0.json").write_text('[{"image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}]')
    (folder / "b0.json").write_text('[{"image_id": 0, "category_id": 77, "bbox": [0, 0, 1, 1], "score": 1}]')
    with pytest.raises(UserError) as caught:
        compare("a0.json", "b0.json")
    assert "a0.json: prediction row 0: image id 99 is not in the ground truth" in str(caught.value)
    assert "b0.json: prediction row 0: category id 77 is not in the ground truth" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[{", "a0.json: no JSON"),
        ('{"images": []}', "a0.json: expected a list of COCO result rows"),
        ("[3]", "a0.json: row 0 is 3"),
        ('[{"image_id": 0}]', "a0.json: prediction row 0: 'category_id' is missing"),
        ('[{"image_id": 0, "category_id": 3, "bbox": null, "score": 1}]', "a0.json: "),
    ],
)
def test_broken_predictions_are_told_plainly(folder: Path, content: str, says: str) -> None:
    (folder / "a0.json").write_text(content)
    with pytest.raises(UserError) as caught:
        compare("a0.json", "b0.json")
    assert str(caught.value).startswith(says)


def test_broken_annotations_are_told_plainly(folder: Path) -> None:
    with pytest.raises(UserError, match=r"a1\.json: expected COCO annotations"):
        compare("a0.json", "b0.json", annotations="a1.json")
    (folder / "val.json").write_text('{"images": []}')
    with pytest.raises(UserError, match="ground truth: 'categories' is missing"):
        compare("a0.json", "b0.json")
    with pytest.raises(UserError, match="equivalence must lie in"):
        compare("a0.json", "b0.json", equivalence=50)


def test_mistakes_of_the_command_line_come_first(folder: Path) -> None:
    done = command(folder, "b=b0.json", "annotation=val.json", "equivalence=much")
    assert done.returncode == 2
    assert done.stderr.startswith("4 mistakes:")
    assert "did you mean annotations?" in done.stderr
    assert "a is missing" in done.stderr
    assert "equivalence=much" in done.stderr


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"image_id": [0], "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}', "image id [0] is not in"),
        ('{"image_id": 0, "category_id": 1, "bbox": 7, "score": 1}', "expected four numbers"),
        (
            '{"image_id": 0, "category_id": 1, "bbox": [0, 0, 1, "x"], "score": 1}',
            "bbox is [0, 0, 1, 'x'], expected num",
        ),
        ('{"image_id": 0, "category_id": 1, "bbox": [0, 0, 1, 1], "score": null}', "score is "),
        (
            '{"image_id": 0, "category_id": 1, "bbox": [0, 0, 1, 1], "score": "high"}',
            "score is 'high', expected numbers",
        ),
    ],
)
def test_values_of_another_kind_are_told_with_their_row(folder: Path, row: str, says: str) -> None:
    (folder / "a0.json").write_text(f"[{row}]")
    with pytest.raises(UserError) as caught:
        compare("a0.json", "b0.json")
    assert str(caught.value).startswith("a0.json: prediction row 0")
    assert says in str(caught.value)


def test_annotations_of_another_kind_are_told(folder: Path) -> None:
    for content, says in (
        ('{"images": [3], "categories": [], "annotations": []}', "image 0: expected an object, got 3"),
        (
            '{"images": [{"id": null}], "categories": [], "annotations": []}',
            "image id None is neither text nor a number",
        ),
    ):
        (folder / "val.json").write_text(content)
        with pytest.raises(UserError, match=says):
            compare("a0.json", "b0.json")
