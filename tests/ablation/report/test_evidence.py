"""What a report reads from the run folders: missing, broken and foreign files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fake_ablation import FakeAblation
from written import Page

from detfuse.ablation.report.behaviour import series_of
from detfuse.ablation.report.evidence import read_curve
from detfuse.files.records import StorageError


def test_runs_without_their_extra_files_are_reported(
    fake: FakeAblation, again: Callable[..., Path], tmp_path: Path
) -> None:
    runs = []
    for run in fake.runs:
        place = tmp_path / "bare" / run.arm / str(run.seed)
        place.mkdir(parents=True)
        if run.state == "finished":
            (place / "predictions.json").write_text((run.folder / "predictions.json").read_text())
        runs.append(replace(run, folder=place))
    text = Page((again(runs=runs) / "report.html").read_text(encoding="utf-8")).sections
    assert "No run has measured its cost" in text["Cost"]
    assert "No run has logged a validation" in text["Learning curves"]
    assert "No run of fpn, unfused, pafpn and bifpn has stored a fusion graph" in text["The fusion graphs"]
    assert "What fusion learnt" not in text, "nothing to show, no section"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cost.json", "{}"),
        ("metrics.csv", "epoch,val/mAP\n0,high\n"),
        ("metrics.csv", "epoch,val/mAP\n0,.5,.5\n1,.5\n"),
    ],
)
def test_a_broken_file_is_named(fake: FakeAblation, again: Callable[..., Path], name: str, content: str) -> None:
    path = fake.runs[0].folder / name
    before = path.read_text()
    path.write_text(content)
    try:
        with pytest.raises(StorageError, match=re.escape(str(path))):
            again()
    finally:
        path.write_text(before)


def test_a_line_that_was_cut_off_is_no_point_of_a_curve(tmp_path: Path) -> None:
    for cut in ("2", "2,", "2,0.5"):
        (tmp_path / "metrics.csv").write_text(f"epoch,val/mAP\n0,0.25\n1,0.375\n{cut}")
        assert read_curve(tmp_path / "metrics.csv") == {"val/mAP": [(0.0, 0.25), (1.0, 0.375)]}


def test_predictions_of_other_data_are_refused(fake: FakeAblation, again: Callable[..., Path]) -> None:
    truth = replace(fake.ground_truth, ids=tuple(int(image_id) + 1000 for image_id in fake.ground_truth.ids))
    with pytest.raises(ValueError, match=r"image id .* is not in the ground truth"):
        again(ground_truth=truth)


def test_epochs_count_from_one_as_everywhere(folder: Path) -> None:
    for name in ("curves", "weights-bifpn"):
        root = ElementTree.parse(folder / "figures" / f"{name}.svg").getroot()
        texts = [element.text or "" for element in root.iter() if element.get("text-anchor") == "middle"]
        ticks = [int(text) for text in texts if text.isdigit()]
        assert 0 not in ticks, name
    series = series_of("a", "#000", [[(0.0, 1.0), (2.0, 2.0)], [(0.0, 2.0)]])
    assert series is not None
    assert series.epochs == (1,), "metrics.csv counts from 0, what is shown to people from 1"


def test_one_validation_is_no_curve(fake: FakeAblation, again: Callable[..., Path], tmp_path: Path) -> None:
    runs = []
    for run in fake.runs:
        place = tmp_path / "once" / run.arm / str(run.seed)
        place.mkdir(parents=True)
        if run.state == "finished":
            (place / "metrics.csv").write_text("epoch,step,val/mAP\n6,70,0.3\n")
        runs.append(replace(run, folder=place))
    text = Page((again(runs=runs) / "report.html").read_text(encoding="utf-8")).sections["Learning curves"]
    assert "There was one validation, after epoch 7" in text
