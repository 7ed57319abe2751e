from __future__ import annotations

import pytest
import torch

from detfuse.backbones.torchvision_backbone import TorchvisionBackbone


@pytest.mark.parametrize(("ceil_mode", "sides"), [(True, (38, 19)), (False, (37, 18))])
def test_odd_sizes_are_rounded_as_asked(ceil_mode: bool, sides: tuple[int, int]) -> None:
    with torch.device("meta"):
        backbone = TorchvisionBackbone(name="vgg11", levels=[3, 4], ceil_mode=ceil_mode)
    maps = backbone(torch.zeros(1, 3, 300, 300, device="meta"))
    assert [tuple(x.shape[2:]) for x in maps] == [(side, side) for side in sides]


def test_where_it_would_change_nothing_it_is_refused() -> None:
    with pytest.raises(ValueError, match="resnet18: it has no pooling of 2 x 2"):
        TorchvisionBackbone(name="resnet18", ceil_mode=True)
