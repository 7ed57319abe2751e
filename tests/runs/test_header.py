"""The model in a line, as the run's header and the exported file have it: only what is there."""

from __future__ import annotations

import pytest
from contracts.composing import compose_train

from detfuse.build import build_detector
from detfuse.runs.header import describe

SMALL = ("neck.out_channels=16", "head.num_convs=1")
PINNED = (
    "neck.topology=null",
    "neck.nodes=[{name:f4,level:4,inputs:[c3,c4,c5],operator:max},{name:p3,level:3,inputs:[f4]}]",
    "neck.outputs=[p3]",
)
PARTLY = (
    "neck.topology=null",
    "neck.nodes=[{name:f4,level:4,inputs:[c4,c5],operator:concat},{name:p3,level:3,inputs:[c3,f4]}]",
    "neck.outputs=[p3]",
)
EXTRAS = ("neck=ssd_extras", "backbone.levels=[3,4]", "neck.fc_channels=16", "neck.extra_channels=[8,8,8,8]")


@pytest.mark.parametrize(
    ("overrides", "neck"),
    [
        (("neck=fpn", *SMALL), "fpn (pyramid fusion, Add)"),
        (("neck=early", "operator=complex", *SMALL), "early (early fusion, Complex)"),
        (("neck=unfused", "operator=gated", *SMALL), "unfused (late fusion)"),
        ((*EXTRAS, "head=ssd"), "SSDExtras"),
        (("neck=fpn", "operator=gated", *PINNED, *SMALL), "own graph (early fusion, Max)"),
        (("neck=fpn", "operator=gated", *PARTLY, *SMALL), "own graph (early fusion, Concat, Gated)"),
    ],
)
def test_an_operator_is_named_only_where_a_node_fuses_with_it(overrides: tuple[str, ...], neck: str) -> None:
    config = compose_train("backbone=resnet10t", *overrides)
    line = describe(build_detector(config, 3), config)
    assert line.startswith(f"resnet10t + {neck} + ")
