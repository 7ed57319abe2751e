"""Numbers, names and tables as people read them."""

from __future__ import annotations

from detfuse.words import (
    aligned,
    clock,
    escaped,
    listed,
    points,
    printable,
    ruled,
    shortened,
    signed,
    some,
    typeset,
    with_ends,
)


def test_points_and_differences_of_them() -> None:
    assert [points(0.3914), points(0.0), points(None), points(None, unknown="-")] == ["39.1", "0.0", "n/a", "-"]
    minus = "\N{MINUS SIGN}"
    assert [signed(v) for v in (0.0123, -0.0123, -0.0001, None)] == ["+1.2", f"{minus}1.2", "0.0", "n/a"]
    assert typeset(-12.344, 2) == f"{minus}12.34"
    assert with_ends(-0.041, -0.055, 0.0) == (f"{minus}4.1", f"{minus}5.5", "0.0")
    assert with_ends(0.002, 0.0003, 0.0037) == ("+0.20", "+0.03", "+0.37"), "an end that leaves 0 out is not shown as 0"
    assert with_ends(0.002, -0.00002, 0.004) == ("+0.200", f"{minus}0.002", "+0.400")


def test_times() -> None:
    assert [clock(0.4), clock(125), clock(59.6), clock(3725)] == ["0:00", "2:05", "1:00", "1:02:05"]


def test_names() -> None:
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert [some(list("abc"), 3), some(list("abcd"), 3), some([])] == ["a, b, c", "a, b, c ... (4 in all)", ""]


def test_a_name_is_shown_and_not_obeyed() -> None:
    title, csi, turned, half = "\x1b]0;PWN\x07\x1b[31mred", "\x9b2J", "\u202egpj.exe", "bad\udcff.jpg"
    assert printable(title) == r"\x1b]0;PWN\x07\x1b[31mred"
    assert [printable(text) for text in (csi, turned, half)] == [r"\x9b2J", r"\u202egpj.exe", r"bad\udcff.jpg"]
    assert printable("a\rb\x7f\ufffe") == r"a\rb\x7f\ufffe"
    for text in ("süß, 猫 \N{CAT FACE}\n\tx", "مرحبا", "e\u0301 \N{NO-BREAK SPACE}x"):
        assert printable(text) == text
    assert some(["a\nerror: b", csi]) == listed(["a\nerror: b", csi]).replace(" and", ",") == r"a\nerror: b, \x9b2J"
    assert aligned([["a\nb", "c"]]) == [r"a\nb  c"]
    assert escaped("<b>\x00") == r"&lt;b&gt;\x00"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [["name", "number", "note"], ["a", "1", ""], ["longer", "12", "x"]]
    assert aligned(rows, left=(0, 2)) == ["name    number  note", "a            1", "longer      12  x"]
    assert ruled(rows[0], rows[1:]) == [
        "name    number  note",
        "------  ------  ----",
        "a            1",
        "longer      12     x",
    ]
    assert ruled(["name"], []) == ["name", "----"]


def test_a_line_that_nobody_could_read_is_cut_in_its_middle() -> None:
    text = "2 mistakes:\n" + "x" * 5000 + ": give a=b"
    first, second = shortened(text).split("\n")
    assert first == "2 mistakes:"
    assert len(second) < 1100
    assert second.startswith("xxx")
    assert second.endswith("x: give a=b")
    assert shortened("a\nb" * 400) == "a\nb" * 400
