"""Numbers, names and tables as people read them."""

from __future__ import annotations

from detfuse.words import aligned, clock, escaped, listed, points, printable, ruled, shortened, signed, some


def test_points_and_differences_of_them() -> None:
    assert [points(0.3914), points(0.3914, 1), points(0.0), points(None), points(None, unknown="-")] == [
        "39.14", "39.1", "0.00", "n/a", "-"
    ]  # fmt: skip
    assert [signed(0.0123), signed(-0.0123, 1), signed(0.0), signed(None)] == ["+1.23", "-1.2", "+0.00", "n/a"]


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
