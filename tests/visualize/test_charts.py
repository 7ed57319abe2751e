"""Charts: ticks are round, labels do not collide, the front is the front, and all of it is well-formed."""

from __future__ import annotations

import math
import random
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from detfuse.visualize import draw
from detfuse.visualize.axes import apart, domain, number, ticks
from detfuse.visualize.curves import Chart, Series, curves
from detfuse.visualize.forest import Mark, Row, forest
from detfuse.visualize.pareto import Point, cost_panels, front


@pytest.mark.parametrize(("low", "high"), [(-0.013, 0.02), (0, 1), (-37, 4100), (5.2e6, 5.21e6), (1e-9, 3e-9)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert low <= found[0] <= found[-1] <= high
    steps = [b - a for a, b in pairwise(found)]
    assert max(steps) == pytest.approx(min(steps))
    assert re.fullmatch(r"[125]0*", f"{steps[0]:.3e}".partition("e")[0].replace(".", ""))


def test_a_domain_is_never_empty() -> None:
    for values in ([], [3.0], [0.0], [-2.0, -2.0]):
        low, high = domain(values)
        assert low < high


def test_labels_are_spread_and_stay_near() -> None:
    generator = random.Random(0)
    for _ in range(100):
        wanted = [generator.uniform(0, 100) for _ in range(generator.randint(1, 6))]
        placed = apart(wanted, 15, 0, 100)
        ordered = sorted(placed)
        assert all(b - a >= 15 - 1e-9 for a, b in pairwise(ordered))
        assert ordered[0] >= 0
        assert ordered[-1] <= 100
        assert [wanted.index(w) for w in sorted(wanted)] == [placed.index(p) for p in ordered], "their order is kept"
    assert apart([10.0, 50.0], 15, 0, 100) == [10.0, 50.0]


def test_the_front_is_what_no_other_beats() -> None:
    arms = [Point(n, "red", c, v, None) for n, c, v in (("a", 1, 10), ("b", 2, 9), ("c", 3, 12), ("d", 3, 11))]
    assert [point.name for point in front(arms)] == ["a", "c"]


def names_on_the_front(*arms: tuple[str, float, float], **given: float) -> list[str]:
    return [point.name for point in front([Point(n, "red", cost, value, None, **given) for n, cost, value in arms])]


def test_costs_within_the_tolerance_are_a_tie() -> None:
    arms = ("poor", 0.9998, 1.0), ("good", 1.0, 30.0), ("dear", 1.03, 31.0)
    assert names_on_the_front(*arms) == ["poor", "good", "dear"]
    assert names_on_the_front(*arms, tolerance=0.02) == ["good", "dear"]
    assert names_on_the_front(("a", 1.0, 30.0), ("b", 1.01, 30.0), tolerance=0.02) == ["a", "b"]
    assert names_on_the_front(("a", 1.0, 30.0), ("b", 1.03, 30.0), tolerance=0.02) == ["a"], "as good, and cheaper"


def test_a_latency_orders_only_where_its_spread_separates() -> None:
    def point(name: str, low: float, high: float, value: float) -> Point:
        return Point(name, "red", (low + high) / 2, value, None, low, high)

    overlapping = [point("a", 70, 90, 30), point("b", 71, 95, 31)]
    assert [p.name for p in front(overlapping)] == ["b"]
    apart = [point("a", 70, 80, 30), point("b", 81, 95, 31)]
    assert [p.name for p in front(apart)] == ["a", "b"]
    unknown = [*apart, Point("c", "red", 60.0, 20.0, None, -math.inf, math.inf)]
    assert front(unknown) == []
    drawing = cost_panels([("latency", unknown)], label="AP")
    assert "inf" not in drawing
    assert "polyline" not in drawing


def test_marks_are_well_formed_whatever_they_say() -> None:
    evil = "</text><script>\"&'"
    marks = [
        draw.text(0, 1.25, evil, title=evil),
        draw.dot(1 / 3, 1e-9, 2, "red", title=evil),
        draw.element("path", d="M0 0", marker_end='url("#a")', class_="added", rx=None),
    ]
    root = ElementTree.fromstring(draw.document(20, 10.04, marks, evil))
    assert (root.get("aria-label"), root.get("viewBox")) == (evil, "0 0 20 10")
    text, dot, path = root
    assert (text.text, [title.text for title in text], dot[0].text) == (evil, [evil], evil)
    assert (text.get("y"), dot.get("cx"), dot.get("cy")) == ("1.2", "0.3", "0")
    assert path.attrib == {"d": "M0 0", "marker-end": 'url("#a")', "class": "added"}


def test_a_tick_has_a_real_minus() -> None:
    assert number(-0.5, sign=True) == "\N{MINUS SIGN}0.5"


def test_arms_have_colours_of_their_own() -> None:
    assert [draw.color_of(i) for i in range(9)] == [draw.BASELINE, *draw.PALETTE]
    assert len({draw.color_of(i) for i in range(25)}) == 25


def texts(drawing: str) -> dict[str, tuple[float, float]]:
    found = re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)"[^>]*>([^<]+)</text>', drawing)
    return {content: (float(x), float(y)) for x, y, content in found}


def test_labels_of_equal_arms_do_not_lie_on_one_another() -> None:
    names = ["fpn", "pafpn", "bifpn", "unfused"]
    places = texts(cost_panels([("FLOPs", [Point(n, "red", 2.3, 40, None) for n in names])], label="AP"))
    boxes = [(x, y, x + 0.56 * 12 * len(n), y + 15) for n, (x, y) in places.items() if n in names]
    assert len(boxes) == 4
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    series = tuple(Series(n, "red", (0.0, 1.0), (1.0, 2.0), (1.0, 2.0), (1.0, 2.0)) for n in names)
    places = texts(curves([Chart("", series)], label="AP"))
    heights = sorted(places[name][1] for name in names)
    assert all(b - a >= 13 for a, b in pairwise(heights))


def test_one_very_long_interval_does_not_hide_the_others() -> None:
    def lengths(*marks: Mark) -> list[float]:
        drawing = forest([Row("arm", (mark,)) for mark in marks], label="difference")
        bars = re.findall(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" y2="[\d.]+"[^>]*stroke-width="5"', drawing)
        return [float(end) - float(start) for start, end in bars]

    short = [Mark("red", 0.0, -1.0, 1.0), Mark("red", 0.0, -1.2, 1.2)]
    alone, beside = lengths(*short), lengths(*short, Mark("red", 0.0, -60.0, 60.0))
    assert beside[0] > 0.3 * alone[0]
    assert "polygon" in forest([Row("arm", (mark,)) for mark in (*short, Mark("red", 0, -60, 60))], label="difference")
