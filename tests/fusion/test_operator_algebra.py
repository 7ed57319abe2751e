"""What add, concat and the complex operator can say of one another, through the public operators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detfuse.fusion.operators import Add, Complex, Concat

WIDTH = 3
PAIR = (WIDTH, WIDTH)


def random_maps(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, WIDTH, 5, 7, generator=generator, dtype=torch.float64) for _ in range(count)]


def uncorrelated_maps() -> tuple[Tensor, Tensor]:
    """Two maps (1, 3, 4, 4) of +1 and -1 whose six channels have mean 0, variance 1 and no correlation at all.

    They are columns of a Hadamard matrix, so that the bounds of least squares hold exactly and not on average.
    """
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < 16:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    channels = matrix[1 : 1 + 2 * WIDTH].reshape(1, 2 * WIDTH, 4, 4)
    return channels[:, :WIDTH], channels[:, WIDTH:]


def concat_of(weight: Tensor, bias: Tensor | None = None) -> Concat:
    """The operator with a given matrix (C_out, C_in) in its 1x1 convolution."""
    concat = Concat((WIDTH,) * (weight.shape[1] // WIDTH), weight.shape[0]).double()
    with torch.no_grad():
        concat.mix.weight.copy_(weight[:, :, None, None])
        concat.mix.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return concat


def pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B H W, C)."""
    return x.movedim(1, -1).flatten(0, -2)


def best_affine(inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (C_out, C_in) and bias of the 1x1 convolution with the least squared error: no training can do better."""
    rows = pixels(inputs)
    solution = torch.linalg.lstsq(F.pad(rows, (0, 1), value=1.0), pixels(target)).solution
    return solution[:-1].T, solution[-1]


def error(predicted: Tensor, target: Tensor) -> float:
    """Mean squared error."""
    return (predicted - target).square().mean().item()


def error_of_best_concat(x: Tensor, y: Tensor, target: Tensor) -> float:
    return error(concat_of(*best_affine(torch.cat([x, y], 1), target))([x, y]), target)


def error_of_best_after_add(x: Tensor, y: Tensor, target: Tensor) -> float:
    """With the best 1x1 convolution after the sum."""
    total = Add(PAIR, WIDTH)([x, y])
    return error(concat_of(*best_affine(total, target))([total]), target)


@pytest.mark.parametrize("count", [2, 3])
def test_concat_with_tied_weights_is_a_convolution_after_add(count: int) -> None:
    maps = random_maps(count)
    v = nn.Conv2d(WIDTH, WIDTH, 1).double()
    tied = concat_of(v.weight[:, :, 0, 0].repeat(1, count), v.bias)
    torch.testing.assert_close(tied(maps), v(Add((WIDTH,) * count, WIDTH)(maps)))


@pytest.mark.parametrize("count", [2, 3])
def test_add_of_projected_maps_is_concat_of_the_maps_themselves(count: int) -> None:
    maps = random_maps(count)
    projections = [nn.Conv2d(WIDTH, WIDTH, 1, bias=False).double() for _ in maps]
    added = Add((WIDTH,) * count, WIDTH)([project(x) for project, x in zip(projections, maps, strict=True)])
    concat = concat_of(torch.cat([project.weight[:, :, 0, 0] for project in projections], 1))
    torch.testing.assert_close(added, concat(maps))


def test_stacked_real_and_imaginary_parts_convolved_are_concat() -> None:
    x, y = random_maps(2)
    z = torch.complex(x, y)
    concat = Concat(PAIR, WIDTH).double()
    stacked = torch.cat([z.real, z.imag], 1)
    assert torch.equal(F.conv2d(stacked, concat.mix.weight, concat.mix.bias), concat([x, y]))


def test_a_complex_convolution_is_a_tied_concat_until_its_modulus() -> None:
    x, y = random_maps(2)
    fuse = Complex(PAIR, WIDTH, readout="complex_conv").double()
    a, b = fuse.real[0].weight[:, :, 0, 0], fuse.imaginary[0].weight[:, :, 0, 0]
    parts = concat_of(torch.cat([torch.cat([a, -b], 1), torch.cat([b, a], 1)]))([x, y])
    real, imaginary = parts.split(WIDTH, 1)
    modulus = (real.square() + imaginary.square() + fuse.eps).sqrt()
    torch.testing.assert_close(fuse([x, y]), modulus, rtol=1e-5, atol=1e-6)


def test_no_concat_reproduces_the_modulus() -> None:
    half_x, half_y = random_maps(2)
    # With every pair its negative: the modulus is even, a convolution odd but for its bias, so only the bias can help.
    x, y = torch.cat([half_x, -half_x]), torch.cat([half_y, -half_y])
    modulus = Complex(PAIR, WIDTH)([x, y])
    assert torch.equal(modulus, Complex(PAIR, WIDTH)([-x, -y]))
    unexplained = pixels(modulus).var(dim=0, correction=0).mean().item()
    assert unexplained > 0.3
    assert error_of_best_concat(x, y, modulus) == pytest.approx(unexplained, rel=1e-6)
    assert error_of_best_concat(x, y, Add(PAIR, WIDTH)([x, y])) == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize(("of_x", "of_y"), [(1.0, 0.0), (1.0, -1.0), (2.0, 1.0), (1.0, 1.0)])
def test_add_forgets_which_level_said_what(of_x: float, of_y: float) -> None:
    x, y = uncorrelated_maps()
    target = of_x * x + of_y * y
    assert error_of_best_concat(x, y, target) == pytest.approx(0.0, abs=1e-20)
    assert error_of_best_after_add(x, y, target) == pytest.approx((of_x - of_y) ** 2 / 2, abs=1e-12)


def test_nothing_after_add_can_tell_the_levels_apart() -> None:
    x, y = random_maps(2)
    add = Add(PAIR, WIDTH)
    assert torch.equal(add([x, y]), add([y, x]))  # whatever follows says the same of both
    concat = Concat(PAIR, WIDTH).double()
    assert not torch.allclose(concat([x, y]), concat([y, x]))
