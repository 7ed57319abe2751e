from __future__ import annotations

import pytest
import torch

from detfuse.necks.mscnn_trunk import MSCNNTrunk
from detfuse.structures import FeatureSpec

VGG = FeatureSpec((512, 512), (8, 16))


def test_levels_are_those_of_the_paper() -> None:
    """576 x 768 pixels: conv4_3, conv5_3, conv6 and pool6, of 512 channels each."""
    with torch.device("meta"):
        trunk = MSCNNTrunk(VGG)
        maps = trunk([torch.rand(1, 512, 72, 96), torch.rand(1, 512, 36, 48)])
    assert trunk.out_spec == FeatureSpec((512,) * 4, (8, 16, 32, 64))
    assert [tuple(x.shape[-2:]) for x in maps] == [(72, 96), (36, 48), (18, 24), (9, 12)]
    assert tuple(trunk.conv6.weight.shape) == (512, 512, 3, 3)


@pytest.mark.parametrize("side", [5, 6])
def test_conv6_reads_the_pooled_map_and_the_last_level_is_it_pooled(side: int) -> None:
    """Odd sizes are rounded up; the backbone's own maps go on untouched."""
    trunk = MSCNNTrunk(FeatureSpec((3, 4), (8, 16)), conv_channels=5)
    features = [torch.rand(1, 3, 10, 10), torch.rand(1, 4, side, side)]
    maps = trunk(features)
    assert maps[0] is features[0]
    assert maps[1] is features[1]
    padded = torch.nn.functional.pad(features[1], (0, side % 2) * 2, value=-torch.inf)
    pooled = padded.unflatten(3, (-1, 2)).amax(4).unflatten(2, (-1, 2)).amax(3)
    torch.testing.assert_close(maps[2], trunk.conv6(pooled).clamp(min=0))
    assert maps[3].shape == (1, 5, 2, 2)
    assert maps[3][0, :, 0, 0].equal(maps[2][0, :, :2, :2].amax((1, 2)))
    assert maps[2].any()
