"""The quickstart's difference must exist: without fusion, what tells a class lies outside of what its level can see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from composing import compose_train
from omegaconf import OmegaConf

from detfuse.ablation.design import Ablation, arms_of, override
from detfuse.build import build_data, build_detector
from detfuse.config import conf_dir
from detfuse.data.datamodule import GeneratedDataModule
from detfuse.detector import Detector

PAGE: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(conf_dir() / "ablation" / "quickstart.yaml"))  # type: ignore[assignment]
ARMS = {arm.name: arm for arm in arms_of(Ablation(**{k: v for k, v in PAGE.items() if k != "_target_"}))}


def config_of(arm: str) -> dict[str, Any]:
    return compose_train(*(override(key, value) for key, value in PAGE["common"].items()), *ARMS[arm].overrides)


def without_zeros(detector: Detector) -> Detector:
    """As it is scored, with weights that let everything through: what has no influence then has none under any weights.

    Nothing cancels, no unit is off, no branch begins at zero.
    """
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.abs_().add_(1e-3)
    return detector.double().eval()


@pytest.mark.parametrize("arm", ARMS)
def test_only_a_fused_path_carries_the_lamp_to_the_level_that_learns_the_discs(arm: str) -> None:
    config = config_of(arm)
    data = build_data(config, 16)
    assert isinstance(data, GeneratedDataModule)
    detector = without_zeros(build_detector(config, len(data.generated.categories)))
    side, stride = config["data"]["image_size"], detector.neck.out_spec.strides[0]
    assert config["data"]["max_size"] < config["head"]["size_range"] * stride  # the finest level learns all of them
    influence = []
    for number in range(3):
        canvas = data.generated.draw("val", number)
        pixels = torch.from_numpy(canvas.pixels).permute(2, 0, 1)[None].requires_grad_()
        lamp = (pixels[0].amax(0) - pixels[0].amin(0)).detach() > 0
        assert lamp.any()
        images = detector.normalize(pixels, torch.tensor([[side, side]]))
        finest = [maps[0] for maps in detector.head(detector.neck(detector.backbone(images)))]
        for x, y, w, h in (record["bbox"] for record in canvas.records):
            columns, rows = (slice(int(a // stride), int(-(-(a + b) // stride))) for a, b in ((x, w), (y, h)))
            told = sum(level[..., rows, columns].sum() for level in finest)
            (gradient,) = torch.autograd.grad(told, pixels, retain_graph=True)
            influence.append(bool(gradient[0, :, lamp].any()))
            assert gradient[0, :, rows.start * stride, columns.start * stride].all()
    assert set(influence) == {arm != "unfused"}
