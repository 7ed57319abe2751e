"""What a run says about itself in two files must be one truth."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_ablation import FakeAblation, make_ablation

from detfuse.ablation.records import Run
from detfuse.ablation.report.agreement import DisagreementError, require_agreement
from detfuse.ablation.run.runner import Job, state_of
from detfuse.ablation.storage import write_run
from detfuse.evaluation.replicates import ReplicateEvaluator
from detfuse.evaluation.scoring import score_runs
from detfuse.files.records import StorageError
from detfuse.statistics.comparison import judge, weightings


def rows(run: Run) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((run.folder / "predictions.json").read_text())
    return content


def check(fake: FakeAblation) -> None:
    """As a conclusion does it: score all predictions, then compare with what the runs stored."""
    runs = [run for run in fake.runs if run.arm in ("fpn", "pafpn") and run.seed < 2]
    predictions = {arm: {run.seed: partial(rows, run) for run in runs if run.arm == arm} for arm in ("fpn", "pafpn")}
    evaluator = ReplicateEvaluator(fake.ground_truth)
    scored = score_runs(evaluator, predictions, weightings(evaluator.num_images))
    require_agreement(runs, judge(scored, evaluator.metrics, "fpn").scores)


@pytest.fixture
def fake(tmp_path: Path) -> FakeAblation:
    return make_ablation(tmp_path, num_images=8)


def folder(fake: FakeAblation, arm: str, seed: int) -> Path:
    return next(run.folder for run in fake.runs if (run.arm, run.seed) == (arm, seed))


def test_untouched_runs_agree(fake: FakeAblation) -> None:
    check(fake)


def test_swapped_predictions_are_refused_with_both_numbers_and_files(fake: FakeAblation) -> None:
    first, second = (folder(fake, arm, 0) / "predictions.json" for arm in ("fpn", "pafpn"))
    ours, theirs = first.read_text(), second.read_text()
    first.write_text(theirs)
    second.write_text(ours)
    with pytest.raises(DisagreementError) as caught:
        check(fake)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["fpn, seed 0", "pafpn, seed 0"]
    numbers = [re.findall(r"0\.\d{6}", line) for line in lines]
    assert numbers[0] == numbers[1][::-1]
    assert f"in {first.parent / 'metrics.json'}, but" in lines[0]
    assert "the predictions.json beside it" in lines[0]


@pytest.mark.parametrize("content", [None, "", "[]", '{"stats": {"mAP": 0.1}}', '{"stats": 3, "per_class": {}}'])
def test_metrics_that_cannot_be_read_are_named(fake: FakeAblation, content: str | None) -> None:
    path = folder(fake, "pafpn", 1) / "metrics.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DisagreementError, match=rf"^pafpn, seed 1: {re.escape(str(path))} cannot be read as metrics"):
        check(fake)


def test_a_class_that_disagrees_is_enough(fake: FakeAblation) -> None:
    path = folder(fake, "fpn", 1) / "metrics.json"
    stored = json.loads(path.read_text())
    name = next(iter(stored["per_class"]))
    stored["per_class"][name]["AP"] += 1e-6
    path.write_text(json.dumps(stored))
    with pytest.raises(DisagreementError, match=rf"^fpn, seed 1: mAP/{name} is "):
        check(fake)


def test_a_folder_that_holds_another_run_is_named(tmp_path: Path) -> None:
    place = tmp_path / "fpn" / "seed-0"
    place.mkdir(parents=True)
    write_run(Run("pafpn", 0, place, "finished"))
    with pytest.raises(StorageError, match="holds the run of arm pafpn, seed 0"):
        state_of(Job("fpn", 0, place, ()))
