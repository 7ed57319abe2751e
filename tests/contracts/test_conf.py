"""conf/ offers every part that the code has."""

from __future__ import annotations

from composing import options

from detfuse.fusion.operators import OPERATORS
from detfuse.fusion.resample import DOWN, UP


def test_there_is_a_yaml_for_every_shipped_choice() -> None:
    assert set(options("operator")) == set(OPERATORS)
    assert set(options("resample")) == (set(UP) | set(DOWN)) - {"subsample"}  # P6's form, pinned by the topologies
    assert set(options("neck")) >= {"unfused", "early", "early_pyramid", "fpn", "unet", "pafpn", "bifpn"}
