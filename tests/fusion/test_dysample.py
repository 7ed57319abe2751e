"""DySample against the paper's formula, pixel by pixel; bilinear interpolation where nothing has been learnt."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detfuse.fusion.dysample import DySample
from detfuse.fusion.resample import Bilinear

WIDTH = 32
VARIANTS = [{"style": style, "dynamic_scope": dynamic} for style, dynamic in product(("lp", "pl"), (False, True))]


def learnt(steps: int = 1, **options: Any) -> DySample:
    """As after a long training: offsets of a pixel and more."""
    torch.manual_seed(0)
    made = DySample(WIDTH, WIDTH, steps, **options).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def features() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, WIDTH, 3, 5, generator=generator, dtype=torch.float64)


def by_formula(x: Tensor, part: DySample) -> Tensor:
    """Each pixel of the finer map: where it looks, and what lies between the four pixels there."""
    s, g = part.scale, part.groups
    batch, channels, height, width = x.shape
    if part.style == "pl":  # channel c s^2 + i s + j of a pixel is channel c of its sub-pixel (i, j)
        read, equation = x.reshape(batch, -1, s, s, height, width), "oc,bcijhw->boijhw"
    else:
        read, equation = x, "oc,bchw->bohw"

    def linear(layer: nn.Conv2d) -> Tensor:
        made = torch.einsum(equation, layer.weight[:, :, 0, 0], read)
        if layer.bias is not None:
            made = made + layer.bias.reshape(-1, *[1] * (made.ndim - 2))
        return made.reshape(batch, 2, g, s, s, height, width)

    scope: Any = 0.25 if part.scope is None else 0.5 / (1 + torch.exp(-linear(part.scope)))
    right, down = (linear(part.offset) * scope).unbind(1)  # (B, g, i, j, h, w)
    sub = (torch.arange(s) + 0.5) / s - 0.5
    column = (torch.arange(width) + sub.reshape(1, s, 1, 1) + right).clamp(0, width - 1)
    row = (torch.arange(height)[:, None] + sub.reshape(s, 1, 1, 1) + down).clamp(0, height - 1)
    left, top = column.floor(), row.floor()
    maps = x.reshape(batch, g, channels // g, height, width)
    found = torch.zeros(batch, g, s, s, height, width, channels // g, dtype=x.dtype)
    b, group = torch.arange(batch).reshape(-1, *[1] * 5), torch.arange(g).reshape(-1, *[1] * 4)
    for dy, dx in product((0, 1), (0, 1)):
        weight = (1 - (row - top - dy).abs()) * (1 - (column - left - dx).abs())
        y, z = (top + dy).clamp(max=height - 1).long(), (left + dx).clamp(max=width - 1).long()
        found += weight[..., None] * maps[b, group, :, y, z]
    return found.permute(0, 1, 6, 4, 2, 5, 3).reshape(batch, channels, s * height, s * width)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("options", VARIANTS)
def test_it_is_the_papers_formula(options: Any, steps: int) -> None:
    part, x = learnt(steps, groups=2, **options), features()
    made = part(x, (3 * 2**steps, 5 * 2**steps))
    torch.testing.assert_close(made, by_formula(x, part), rtol=1e-9, atol=1e-9)
    moved = (made - Bilinear(WIDTH, WIDTH, steps)(x, made.shape[-2:])).abs().mean()
    assert moved > 0.1, "the offsets do nothing"


@pytest.mark.parametrize("size", [(6, 10), (5, 9), (7, 11)])
@pytest.mark.parametrize("options", VARIANTS)
def test_it_starts_as_nearly_bilinear_at_any_size(options: Any, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    part, x = DySample(WIDTH, WIDTH, 1, **options), features().float()
    bilinear = Bilinear(WIDTH, WIDTH, 1)(x, size)
    assert 0 < (part(x, size) - bilinear).abs().max() < 0.05
    nn.init.zeros_(part.offset.weight)
    torch.testing.assert_close(part(x, size), bilinear, rtol=1e-5, atol=1e-6)


def test_at_an_odd_size_every_pixel_has_the_offset_of_its_own_place() -> None:
    """A larger map of which the target is a cut: the last row's and column's offsets are left out, no others move."""
    part, x = learnt(), features()
    nn.init.zeros_(part.offset.weight)  # every pixel of the map looks in the same four directions
    made = part(x, (5, 9))
    right, down = (0.25 * part.offset.bias).reshape(2, part.groups, 2, 2).unbind()
    for i, j in ((0, 0), (1, 4), (3, 7)):
        for group in range(part.groups):
            at = torch.stack(
                [
                    (2 * j + 1) / 9 + 2 * right[group, i % 2, j % 2] / 5,
                    (2 * i + 1) / 5 + 2 * down[group, i % 2, j % 2] / 3,
                ]
            )
            channels = x.chunk(part.groups, 1)[group]
            grid = (at - 1).expand(2, 1, 1, 2)
            expected = F.grid_sample(channels, grid, padding_mode="border", align_corners=False)
            torch.testing.assert_close(made.chunk(part.groups, 1)[group][..., i, j], expected[..., 0, 0])


@pytest.mark.parametrize("options", VARIANTS)
def test_everything_learns(options: Any) -> None:
    part, x = learnt(**options), features().requires_grad_()
    part(x, (5, 9)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in [x, *part.parameters()])


def test_positions_are_exact_in_half_precision() -> None:
    """bfloat16 counts in steps of two from 256 on: a wide map would be sampled pixels away."""
    part = DySample(4, 4, 1).bfloat16()
    x = torch.arange(400).remainder(2).expand(1, 4, 2, 400).bfloat16()
    made = part(x, (4, 800))
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made, Bilinear(4, 4, 1)(x, (4, 800)), rtol=0, atol=0.01)


def test_widths_that_do_not_fit_are_told() -> None:
    with pytest.raises(ValueError, match="dysample cannot change the width from 8 to 4"):
        DySample(8, 4, 1)
    with pytest.raises(ValueError, match=r"16 pixels where 2 levels are crossed, and 24 channels are no multiple.*lp"):
        DySample(24, 24, 2, style="pl")
    assert DySample(6, 6, 1).groups == 2
