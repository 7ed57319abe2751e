from __future__ import annotations

import torch
from torch import Tensor, nn

from detfuse.backbones.extractor import Extractor
from detfuse.structures import FeatureSpec


class Gated(Extractor):
    """A map times a gate through which no gradient flows, and a layer whose result nobody takes."""

    out_spec = FeatureSpec((4,), (8,))

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict(
            {"conv": nn.Conv2d(3, 4, 8, 8, bias=False), "gate": nn.Conv2d(4, 4, 1, bias=False), "idle": nn.Linear(2, 2)}
        )
        self._finish("gated", (), "train")

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.model["conv"](images)
        return [x * (1 + self.model["gate"](x).detach())]


def test_what_changes_the_maps_stays_though_no_gradient_reaches_it() -> None:
    """On an image of zeros nothing tells whether it is there."""
    backbone = Gated()
    assert isinstance(backbone.model["gate"], nn.Conv2d)
    learning = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert learning == {"model.conv.weight"}


def test_trying_a_model_draws_no_random_numbers() -> None:
    backbone = Gated()
    before = torch.random.get_rng_state()
    backbone._check_attention("gated", {})
    assert torch.equal(torch.random.get_rng_state(), before)
