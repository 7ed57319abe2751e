"""What a norm of one value looks like to a user of the command."""

from __future__ import annotations

from pathlib import Path

from commands import TINY, run


def test_it_is_told_before_training_and_without_a_traceback(tmp_path: Path) -> None:
    failed = run("train", *TINY, "neck=bifpn", "data.loader.batch_size=1", "name=small", folder=tmp_path, fails=True)
    assert "error: 9 norms have 1 value per statistic" in failed.stderr
    assert "1 image of 64 x 64 pixels per process" in failed.stderr
    assert "neck.norm=group" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "epoch" not in failed.stdout
