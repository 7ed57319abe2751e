"""SAPA-B against its definition, pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from detfuse.fusion.sapa import SAPA

WIDTH = 6


def learnt(steps: int = 1) -> SAPA:
    torch.manual_seed(0)
    made = SAPA(WIDTH, WIDTH, steps, kernel_size=3, embedding=4).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def maps(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A map of 3 x 4 and a guide."""
    generator = torch.Generator().manual_seed(1)
    x, guide = (torch.randn(2, WIDTH, *s, generator=generator, dtype=torch.float64) for s in ((3, 4), size))
    return x, guide


def embedded(pixel: Tensor, part: nn.Module) -> Tensor:
    """Layer norm and a linear map of one pixel (C,)."""
    norm, linear = part
    centred = pixel - pixel.mean()
    normed = centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias
    return linear.weight[:, :, 0, 0] @ normed + linear.bias


def by_definition(part: SAPA, x: Tensor, guide: Tensor, i: int, j: int) -> Tensor:
    """Pixel (i, j) of the first image: its window's pixels, weighed by how similar they are to the guide."""
    row, column = min(i // part.scale, 2), min(j // part.scale, 3)
    query = embedded(guide[0, :, i, j], part.query)
    similar, values = [], []
    for y in range(row - 1, row + 2):
        for z in range(column - 1, column + 2):
            inside = 0 <= y < 3 and 0 <= z < 4
            similar.append((query @ embedded(x[0, :, y, z], part.key)).item() if inside else 0.0)
            values.append(x[0, :, y, z] if inside else torch.zeros(WIDTH, dtype=x.dtype))
    total = sum(map(math.exp, similar))
    return sum((math.exp(s) / total * value for s, value in zip(similar, values, strict=True)), torch.zeros(WIDTH))


@pytest.mark.parametrize(("steps", "size"), [(1, (6, 8)), (1, (5, 7)), (1, (7, 9)), (2, (11, 14))])
def test_it_is_its_definition_at_any_size(steps: int, size: tuple[int, int]) -> None:
    part = learnt(steps)
    x, guide = maps(size)
    made = part(x, size, guide)
    assert made.shape == (2, WIDTH, *size)
    for i, j in ((0, 0), (2, 3), (size[0] - 1, 0), (size[0] - 1, size[1] - 1)):
        torch.testing.assert_close(made[0, :, i, j], by_definition(part, x, guide, i, j))


def test_the_guide_decides_and_everything_learns() -> None:
    part = learnt()
    x, guide = (each.requires_grad_() for each in maps((5, 7)))
    made = part(x, (5, 7), guide)
    assert not torch.allclose(made, part(x, (5, 7), guide.roll(1, -1)))
    made.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in [x, guide, *part.parameters()])


def test_it_starts_as_nearly_the_mean_of_each_window() -> None:
    torch.manual_seed(0)
    part = SAPA(WIDTH, WIDTH, 1, kernel_size=3).double()
    x, guide = maps((6, 8))
    torch.testing.assert_close(part(x, (6, 8), guide)[:, :, 3, 3], x[:, :, :3, :3].mean((-1, -2)), rtol=0, atol=0.05)
    with pytest.raises(ValueError, match="sapa cannot change the width"):
        SAPA(8, 4, 1)
