"""A plan knows the noise of earlier ablations of the same kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detfuse.ablation.design import Ablation
from detfuse.ablation.plan.measured import measured_noise
from detfuse.ablation.plan.prepared import Prepared, prepare, store
from detfuse.ablation.storage import COMPARISON, write_comparison
from detfuse.statistics.records import Comparison, Difference, SeedNoise, Verdict


def prepared_as(*typed: str) -> Prepared:
    return prepare(Ablation(factors={"neck": ["fpn", "pafpn"]}), "x", typed)


@pytest.fixture
def past(tmp_path: Path) -> Path:
    """An ablation that is finished."""
    folder = tmp_path / "past"
    store(folder, prepared_as())
    main = Difference("mAP", {0: 0.01, 1: 0.05, 2: 0.03}, 0.03, 0.0, 0.06, 0.01, 0.004, "")
    noise = SeedNoise(0.02, None, (), 0.0, 0.02, 2.0)
    one = Comparison("pafpn", "fpn", (0, 1, 2), {}, (main,), Verdict("undecided", ""), None, noise=noise)
    write_comparison(folder, [], [one])
    return folder


def test_what_was_measured_beside_it_is_used_where_data_and_schedule_are_the_same(past: Path) -> None:
    found = measured_noise(past.parent / "new", prepared_as("neck.out_channels=32"))
    assert found is not None
    assert (found.noise.seeds, found.noise.images) == pytest.approx((0.02**2, 0.004**2))
    assert found.by == "the runs of past, with the same data and schedule"
    assert measured_noise(past.parent / "new", prepared_as("trainer.max_epochs=3")) is None


def test_what_cannot_be_read_is_left_out(past: Path) -> None:
    content = json.loads((past / COMPARISON).read_text())
    content["comparisons"][0]["differences"][0]["p_holm"] = 0.1  # an older version
    (past / COMPARISON).write_text(json.dumps(content))
    assert measured_noise(past.parent / "new", prepared_as()) is None
    (past / COMPARISON).unlink()
    assert measured_noise(past.parent / "new", prepared_as()) is None
