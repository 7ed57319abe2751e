"""The designs of the other contract tests."""

from __future__ import annotations

from itertools import combinations

import pytest
from composing import pairwise

AXES = {
    "neck": [f"n{i}" for i in range(25)],
    "head": [f"h{i}" for i in range(8)],
    "check": ["learn", "detect", "compile", "export"],
    "dtype": ["float32", "bfloat16"],
}


def missing(design: list[tuple[str, ...]]) -> set[tuple[str, str]]:
    """Pairs of axes of which some pair of levels is in no case."""
    columns = dict(zip(AXES, zip(*design, strict=True), strict=True))
    return {
        (a, b)
        for a, b in combinations(AXES, 2)
        if len(set(zip(columns[a], columns[b], strict=True))) < len(AXES[a]) * len(AXES[b])
    }


def test_every_pair_of_levels_is_there_and_few_cases_are_needed() -> None:
    design = pairwise(AXES)
    assert not missing(design)
    assert len(design) == 25 * 8  # the two longest axes need as many; all combinations are 1,600
    assert design == pairwise(AXES)
    assert len(set(design)) == len(design)


def test_two_axes_may_be_left_apart() -> None:
    design = pairwise(AXES, ("neck", "head"))
    assert missing(design) == {("neck", "head")}
    assert len(design) == 25 * 4
    assert len({(neck, head) for neck, head, _, _ in design}) > 60  # not always the same head under a neck


@pytest.mark.parametrize("axes", [{"a": ["x"]}, {}])
def test_less_than_two_axes_have_no_pairs(axes: dict[str, list[str]]) -> None:
    assert pairwise(axes) == []
