"""How a neck starts: every convolution by one fill, so that an operator's scale is its nature and not its default.

``python tests/necks/test_start.py`` prints the table of .github/OPERATORS.md.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detfuse.fusion.operators import OPERATORS, Add, Complex, Concat
from detfuse.fusion.resample import Deconv, Nearest, StridedConv
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.topologies import bifpn, dense_pyramid, early_pyramid, fpn, hypernet, pafpn, unet, unfused
from detfuse.structures import FeatureSpec

SPEC = FeatureSpec((128, 256, 512), (8, 16, 32))
WIDTH = 64
READOUTS: dict[str, Any] = {**OPERATORS, "complex_conv": partial(Complex, readout="complex_conv")}
TOPOLOGIES: dict[str, Any] = {
    f.__name__: f for f in (unfused, early_pyramid, hypernet, fpn, unet, dense_pyramid, pafpn)
}
TOPOLOGIES["bifpn"] = partial(bifpn, repeats=1)


def neck(topology: Any, operator: Any = Add, up: Any = Nearest, down: Any = StridedConv, **options: Any) -> GraphNeck:
    torch.manual_seed(0)
    return GraphNeck(SPEC, operator, up, down, topology=topology, **{"out_channels": WIDTH, **options})


def spreads(part: nn.Module) -> dict[str, tuple[float, int, int]]:
    """Per convolution: the weights' standard deviation, fan-in and fan-out, both within a group."""
    found = {}
    for name, layer in part.named_modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight
            fans = weight[0].numel(), weight[:, 0].numel() // layer.groups
            found[name] = (weight.std().item(), *fans)
            assert layer.bias is None or not layer.bias.any(), name
    return found


@pytest.mark.parametrize("operator", READOUTS)
def test_no_convolution_of_an_operator_keeps_torchs_start(operator: str) -> None:
    fused = spreads(neck(fpn, READOUTS[operator]).operators)
    has_weights = operator in ("concat", "complex_conv", "gated")
    assert bool(fused) == has_weights
    for name, (spread, fan_in, fan_out) in fused.items():
        # what one output sums: of a complex number's parts both matrices; torch's start would be .58 of it
        summed = 2 * fan_in if operator == "complex_conv" else fan_in
        assert spread == pytest.approx(summed**-0.5, rel=0.03 if fan_in * fan_out > 4000 else 0.1), name


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("fill", ["fan_in", "fan_avg"])
def test_one_fill_starts_edges_blocks_and_operators(topology: str, fill: Any) -> None:
    built = neck(TOPOLOGIES[topology], Concat, fill=fill)
    found = spreads(built)
    assert {name.partition(".")[0] for name in found} >= {"edges", "blocks"}
    for name, (spread, fan_in, fan_out) in found.items():
        fan = fan_in if fill == "fan_in" else (fan_in + fan_out) / 2
        # a depthwise kernel has 576 numbers
        assert spread == pytest.approx(fan**-0.5, rel=0.1 if fan_in == 9 else 0.03), name


def test_an_unknown_fill_is_told() -> None:
    with pytest.raises(ValueError, match="fill must be fan_in or fan_avg, got 'xavier'"):
        neck(fpn, fill="xavier")


class Closed(nn.Module):
    """A private operator whose gate begins at zero."""

    own_start = True

    def __init__(self, in_channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(out_channels, out_channels, 1)
        nn.init.zeros_(self.gate.weight)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0] + self.gate(maps[1])


def test_a_part_may_have_a_start_of_its_own() -> None:
    assert not neck(fpn, Closed).operators["t4"].gate.weight.any()
    deconv = neck(fpn, Add, up=Deconv).edges["t5->t4"].resample
    x = torch.randn(1, WIDTH, 4, 4)
    bilinear = nn.functional.interpolate(x, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(deconv(x, (8, 8))[..., 1:-1, 1:-1], bilinear[..., 1:-1, 1:-1])


def features() -> list[Tensor]:
    """ReLU of normal numbers, which a backbone's last activation makes."""
    generator = torch.Generator().manual_seed(0)
    sides = (64, 32, 16)
    return [torch.randn(1, c, s, s, generator=generator).relu() for c, s in zip(SPEC.channels, sides, strict=True)]


@cache
def scales() -> dict[str, tuple[float, float]]:
    """Operator -> standard deviation of FPN's P3 and PAFPN's P4."""
    with torch.no_grad():
        return {
            name: (
                neck(fpn, operator)(features())[0].std().item(),
                neck(pafpn, operator)(features())[1].std().item(),
            )
            for name, operator in READOUTS.items()
        }


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


@pytest.mark.parametrize("count", [2, 3])
def test_concat_has_the_root_mean_square_of_its_inputs(count: int) -> None:
    maps = [scale * torch.randn(1, WIDTH, 32, 32) for scale in (1.0, 2.0, 0.5)[:count]]
    torch.manual_seed(0)
    nodes = [{"name": f"p{level}", "level": level, "inputs": ["c3", "c4", "c5"][:count]} for level in (3,)]
    spec = FeatureSpec((WIDTH,) * count, (8, 16, 32)[:count])
    built = GraphNeck(spec, Concat, Nearest, StridedConv, nodes=nodes, outputs=["p3"], out_channels=WIDTH)
    fused = built.operators["p3"](maps)
    wanted = (sum(rms(x) ** 2 for x in maps) / count) ** 0.5
    assert rms(fused) == pytest.approx(wanted, rel=0.1)


def test_an_operators_scale_is_its_nature() -> None:
    """A sum grows, a mean shrinks, a matrix keeps: no operator with weights falls below the mean of its inputs."""
    for level in (0, 1):
        of = {name: scale[level] for name, scale in scales().items()}
        assert of["add"] > 1.5 * of["mean"]
        assert of["mean"] < of["concat"] < of["add"]
        assert of["mean"] < of["gated"] < of["add"]
        assert of["complex_conv"] == pytest.approx(of["complex"], rel=0.3)
        for name in ("fast_normalized", "softmax"):
            assert of[name] == pytest.approx(of["mean"], rel=0.01)


def test_concat_keeps_the_scale_of_one_input_through_a_pyramid() -> None:
    one_input = neck(unfused)(features())[0].std().item()
    fpn_p3, pafpn_p4 = scales()["concat"]
    assert fpn_p3 == pytest.approx(one_input, rel=0.15)
    assert pafpn_p4 == pytest.approx(one_input, rel=0.3)


if __name__ == "__main__":
    print("operator         FPN P3  PAFPN P4")
    for operator, (p3, p4) in scales().items():
        print(f"{operator:<15} {p3:7.2f}  {p4:8.2f}")
