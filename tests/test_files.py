"""Tables that grow line by line, while disks fill up and processes are killed."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from detfuse.files.text import append_text, as_line, read_table

LINES = ["epoch,step,loss/a", "0,19,0.25", "0,39,", '1,59,"1,5"', "1,79,nan"]
CELLS = [["0", "19", "0.25"], ["0", "39", ""], ["1", "59", "1,5"], ["1", "79", "nan"]]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_that_was_cut_anywhere_has_the_lines_that_are_whole(tmp_path: Path, end: str) -> None:
    path = tmp_path / "metrics.csv"
    whole = "".join(line + end for line in LINES)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length].encode())
        table = read_table(path)
        count = whole[:length].count("\n")
        assert table.columns == (LINES[0].split(",") if count else [])
        assert [list(row.values()) for row in table.rows] == CELLS[: max(count - 1, 0)]
        assert table.cut == whole[:length].rpartition("\n")[2]
        assert not table.damaged


def test_a_last_line_without_all_its_cells_was_cut_off_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step\n0,1\n0\n")
    assert read_table(tmp_path / "metrics.csv") == (["epoch", "step"], [{"epoch": "0", "step": "1"}], "0", [])


def test_damage_in_the_middle_costs_no_other_line(tmp_path: Path) -> None:
    broken = ['0,"19', "0,19,20", "\0" * 200_000, "0,\r19"]
    (tmp_path / "metrics.csv").write_bytes(
        "\n".join(["epoch,step", "0,1", *broken, "", "0,2", "0,\N{SNOWMAN}"]).encode()[:-1]
    )
    table = read_table(tmp_path / "metrics.csv")
    assert [row["step"] for row in table.rows] == ["1", "2"]
    assert table.damaged == broken
    assert table.cut == "0,\N{REPLACEMENT CHARACTER}"


def test_a_file_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert read_table(tmp_path / "metrics.csv") == ([], [], "", [])


def test_a_full_disk_takes_a_whole_line_or_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    append_text(path, as_line(["epoch", "a,b"]))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 3, before[1]))
    try:
        with pytest.raises(OSError, match=r"[Ff]ile too large"):
            append_text(path, as_line([0, 0.25]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == 'epoch,"a,b"\n'
    append_text(path, as_line([0, 0.25]))
    assert path.read_text() == 'epoch,"a,b"\n0,0.25\n'
