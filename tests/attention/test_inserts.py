"""Attention at its place, as a notebook puts it there."""

from __future__ import annotations

import doctest
from functools import partial
from typing import Any

import pytest

from detfuse.attention import SE, inserts
from detfuse.attention.inserts import AttentionChoice, Sites, places_of
from detfuse.heads.fcos import FCOSHead
from detfuse.structures import FeatureSpec


def fcos(attention: Sites) -> FCOSHead:
    return FCOSHead(FeatureSpec((32, 32), (8, 16)), 3, num_convs=1, attention=attention)


def test_the_example_runs() -> None:
    ran = doctest.testmod(inserts)
    assert ran.attempted > 5
    assert ran.failed == 0


def test_a_bare_factory_stands_on_every_level() -> None:
    bare, wrapped = fcos({"head": partial(SE, ratio=8)}), fcos({"head": AttentionChoice(partial(SE, ratio=8))})
    assert str(bare) == str(wrapped)
    assert places_of(bare) == places_of(wrapped)
    assert str(fcos({"head": SE})) != str(bare), "ratio is taken from the factory"


@pytest.mark.parametrize("wrong", ["se", SE(32), AttentionChoice(SE(32)), None])
def test_what_makes_no_module_is_told_with_its_site(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"attention\.head: expected what makes a module .* partial\(SE, ratio=8\)"):
        fcos({"head": wrong})
