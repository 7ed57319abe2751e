"""What a choice brings along that is no setting: norms, blocks, levels and parameters of the built detectors."""

from __future__ import annotations

from functools import cache

from detfuse.ablation.plan.built import description_of
from detfuse.build import build_detector
from detfuse.config.resolve import resolve

SMALL = ("neck.out_channels=16", "head.num_convs=1")


@cache
def built(*overrides: str) -> dict[str, str]:
    return dict(description_of(build_detector(resolve([*SMALL, *overrides], "train").config, 3)))


def brought(*overrides: str) -> dict[str, tuple[str, str]]:
    """Rows in which a detector differs from the default one."""
    ours, theirs = built(), built(*overrides)
    return {row: (ours.get(row, ""), text) for row, text in theirs.items() if ours.get(row) != text}


def test_an_operator_brings_its_norms_and_parameters() -> None:
    rows = brought("operator=gated")
    assert rows.keys() == {"norms of the neck", "parameters of the neck"}
    assert rows["norms of the neck"] == ("none", "8 LayerNorm"), "of two gates with two branches of two norms each"
    assert brought("operator=concat").keys() == {"parameters of the neck"}
    scalars = brought("operator=fast_normalized")["parameters of the neck"]
    assert int(scalars[1].replace(",", "")) - int(scalars[0].replace(",", "")) == 4


def test_what_has_neither_brings_nothing() -> None:
    assert brought("operator=mean") == {}
    assert brought("neck=unfused") == {}


def test_a_neck_brings_its_blocks_and_its_levels() -> None:
    rows = brought("neck=early_pyramid")
    assert rows["blocks"] == ("conv3 at stride 8, 16, 32", "conv3 at stride 8, 16, 32, 64, 128")
    assert rows["levels above the backbone's"] == (
        "64: strided_conv from p5; 128: strided_conv from r6",
        "64: resample.down from p5, then conv3; 128: resample.down from p6, then conv3",
    )
    assert brought("neck=bifpn")["norms of the neck"] == ("none", "30 BatchNorm2d"), "learnt weights are no norms"


def test_other_parts_are_described_too() -> None:
    assert brought("head=retinanet", "neck.norm=batch")["norms of the head"][1] == "none"
    assert brought("backbone.norm=frozen").keys() == {"norms of the backbone", "parameters of the backbone"}
