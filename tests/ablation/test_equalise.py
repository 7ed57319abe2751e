from __future__ import annotations

import re
from typing import Any

import pytest
from contracts.composing import compose_train

from detfuse.ablation.plan.equalise import EqualiseError, equalised
from detfuse.build import build_neck
from detfuse.structures import FeatureSpec

SPEC = FeatureSpec((8, 8, 8), (8, 16, 32))


def test_norm_brings_its_settings_and_the_activation() -> None:
    fpn, bifpn = compose_train("neck=fpn"), compose_train("neck=bifpn")
    assert equalised(bifpn, fpn, ["norm"]) == (
        "neck.norm=none",
        "neck.norm_eps=1e-05",
        "neck.norm_momentum=0.1",
        "neck.activation=none",
    )
    assert equalised(fpn, fpn, ["norm", "block", "levels"]) == ()


def test_block_is_the_baselines() -> None:
    fpn, bifpn = compose_train("neck=fpn"), compose_train("neck=bifpn")
    assert equalised(bifpn, fpn, ["block"]) == ("neck.topology.block=conv3",)
    assert equalised(fpn, bifpn, ["block"]) == ("neck.topology.block=separable",)


@pytest.mark.parametrize("neck", ["bifpn", "early_pyramid", "pafpn", "unet", "unfused"])
def test_equalised_arms_are_equal_in_all_that_was_named(neck: str) -> None:
    baseline = compose_train("neck=fpn", "neck.norm=batch", "neck.topology.extra_levels=1")
    overrides = equalised(compose_train(f"neck={neck}"), baseline, ["norm", "block", "levels"])
    arm = compose_train(f"neck={neck}", *overrides)
    assert "neck.topology.extra_levels=1" in overrides
    assert (arm["neck"]["norm"], arm["neck"]["activation"]) == ("batch", "none")
    assert arm["neck"]["topology"]["block"] == "conv3"
    assert build_neck(arm, SPEC).out_spec == build_neck(baseline, SPEC).out_spec


def test_extra_levels_come_from_where_the_baselines_come_from() -> None:
    baseline = compose_train("neck=fpn", "neck.topology.extra=from_c")
    assert equalised(compose_train("neck=pafpn"), baseline, ["levels"]) == ("neck.topology.extra=from_c",)


def test_scale_takes_the_baselines_fill_where_both_necks_have_one() -> None:
    def with_fill(neck: str, fill: str) -> dict[str, Any]:
        config = compose_train(f"neck={neck}")
        return {**config, "neck": {**config["neck"], "fill": fill}}

    fpn, bifpn = with_fill("fpn", "a"), with_fill("bifpn", "b")
    assert equalised(bifpn, fpn, ["scale"]) == ("neck.fill=a",)
    assert equalised(fpn, fpn, ["scale"]) == ()
    assert equalised(bifpn, compose_train("neck=ssd_extras"), ["scale"]) == ()


@pytest.mark.parametrize(
    ("arm", "baseline", "what", "message"),
    [
        (["neck=early"], ["neck=fpn"], "levels", "neck early predicts at strides 8, the baseline fpn at 8, 16, 32, 64"),
        (["neck=fpn"], ["neck=early"], "levels", "neck fpn predicts at strides 8, 16, 32, the baseline early at 8"),
        (["neck=ssd_extras"], ["neck=fpn"], "norm", "the arm's neck SSDExtras has no norm, norm_eps"),
        (["neck=ssd_extras"], ["neck=fpn"], "block", "the arm's neck SSDExtras has no topology.block"),
        (["neck=fpn"], ["neck=ssd_extras"], "block", "the baseline's neck SSDExtras has no topology.block"),
        (["neck=ssd_extras"], ["neck=fpn"], "scale", "the arm's neck SSDExtras has no scales"),
        (["neck=fpn"], ["neck=fpn"], "anchors", "there is no 'anchors'; there are norm, block, levels, scale"),
    ],
)
def test_what_cannot_be_equalised_is_told_by_arm_and_setting(
    arm: list[str], baseline: list[str], what: str, message: str
) -> None:
    with pytest.raises(EqualiseError, match=re.escape(message)):
        equalised(compose_train(*arm), compose_train(*baseline), [what])
