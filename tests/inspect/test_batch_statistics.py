"""A norm of one value is told before training, wherever it stands, and only where it is one."""

from __future__ import annotations

import pytest
import torch
from contracts.composing import compose_train
from torch import Tensor, nn

from detfuse.build import build_detector
from detfuse.detector import Detector
from detfuse.inspect.batch_statistics import norms_of_one_value, require_statistics
from detfuse.structures import FeatureSpec

SMALL = ("backbone=resnet10t", "neck.out_channels=16", "head.num_convs=1")
ONE = (1, (128, 128))


def detector(*overrides: str) -> Detector:
    return build_detector(compose_train(*SMALL, *overrides), 3)


class Stem(nn.Module):
    """A backbone of pooled pixels."""

    out_spec = FeatureSpec((3, 3), (8, 16))

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.norm = norm or nn.Identity()

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [nn.functional.avg_pool2d(images, stride) for stride in (8, 16)]
        return [self.weight * maps[0], self.norm(maps[1])]


def toy(norm: nn.Module) -> Detector:
    """Only one norm, on a map of stride 16."""
    return Detector(Stem(norm), nn.Identity(), nn.Identity())  # type: ignore[arg-type]  # no neck and no head


def refuses(model: Detector, batch: int, size: tuple[int, int]) -> bool:
    """Whether torch itself meets a norm of one value in a training step."""
    try:
        model.train()(torch.zeros(batch, 3, *size, dtype=torch.uint8), torch.tensor([size] * batch))
    except ValueError as error:
        return "Expected more than 1" in str(error)
    return False


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (("neck=bifpn", "neck.topology.repeats=1"), ["neck.blocks.p7.3"]),
        (("neck=fpn", "attention@attention.output=cbam"), ["neck.inserts.output_p7.attention.spatial.norm"]),
        (("neck=fpn", "head.norm=batch"), ["head.box_tower.0.norm", "head.cls_tower.0.norm"]),
        (("neck=fpn", "neck.norm=group"), []),
    ],
)
def test_what_torch_would_refuse_is_found_before(overrides: tuple[str, ...], names: list[str]) -> None:
    model = detector(*overrides)
    assert sorted(norms_of_one_value(model, *ONE)) == names
    assert refuses(model, *ONE) == bool(names)
    for batch, size in ((2, (128, 128)), (1, (128, 160))):
        assert not norms_of_one_value(model, batch, size)
        assert not refuses(model, batch, size)


@pytest.mark.parametrize(
    ("norm", "batch", "side", "found"),
    [
        (nn.BatchNorm2d(3), 1, 16, True),
        (nn.BatchNorm2d(3), 2, 16, False),
        (nn.BatchNorm2d(3).eval(), 1, 16, True),  # training puts it back
        (nn.BatchNorm2d(3, track_running_stats=False), 1, 16, True),
        (nn.SyncBatchNorm(3), 1, 16, True),
        (nn.InstanceNorm2d(3), 1, 16, True),
        (nn.InstanceNorm2d(3), 4, 16, True),
        (nn.InstanceNorm2d(3), 1, 32, False),
        (nn.GroupNorm(3, 3), 1, 16, True),
        (nn.GroupNorm(3, 3), 1, 32, False),
        (nn.GroupNorm(1, 3), 1, 16, False),
        (nn.LayerNorm([3, 1, 1]), 1, 16, False),
    ],
)
def test_every_kind_of_norm_is_counted_as_torch_counts_it(norm: nn.Module, batch: int, side: int, found: bool) -> None:
    model = toy(norm)
    assert bool(norms_of_one_value(model, batch, (side, side))) == found
    assert refuses(model, batch, (side, side)) == found


def test_what_torch_would_let_pass_as_a_constant_is_found_too() -> None:
    for norm, batch in ((nn.GroupNorm(3, 3), 2), (nn.LayerNorm([1]), 2)):
        model = toy(norm)
        assert not refuses(model, batch, (16, 16))
        assert norms_of_one_value(model, batch, (16, 16))


def test_a_synchronised_norm_counts_all_processes() -> None:
    assert norms_of_one_value(toy(nn.SyncBatchNorm(3)), 1, (16, 16), processes=1)
    assert not norms_of_one_value(toy(nn.SyncBatchNorm(3)), 1, (16, 16), processes=2)
    assert norms_of_one_value(toy(nn.BatchNorm2d(3)), 1, (16, 16), processes=2)


def test_frozen_norms_take_no_statistics() -> None:
    size = (32, 32)
    live, frozen = (detector("neck=unfused", f"backbone.norm={norm}") for norm in ("train", "frozen"))
    assert all(name.startswith("backbone.") for name in norms_of_one_value(live, 1, size))
    assert norms_of_one_value(live, 1, size)
    assert not norms_of_one_value(frozen, 1, size)


def told(*overrides: str, batch: int = 1, size: tuple[int, int] = (128, 128)) -> str:
    with pytest.raises(ValueError, match="norm") as caught:
        require_statistics(detector(*overrides), batch, size)
    return str(caught.value)


def test_the_message_names_norm_place_number_and_remedies() -> None:
    text = told("neck=bifpn", "neck.topology.repeats=1")
    assert "1 norm has 1 value per statistic" in text
    assert "1 image of 128 x 128 pixels per process): BatchNorm2d neck.blocks.p7.3." in text
    for remedy in ("neck.norm=group", "data.loader.batch_size", "data.transform", "neck.topology.extra_levels"):
        assert remedy in text
    text = told("neck=fpn", "attention@attention.output=cbam")
    assert "BatchNorm2d of CBAM at output p7" in text
    assert "attention.levels.output" in text
    assert "neck.norm" not in text
    text = told("neck=bifpn", "neck.topology.repeats=1", size=(32, 32))
    assert "more. What helps: backbone.norm=frozen" in text


def test_the_detector_and_the_generator_stay_as_they_are() -> None:
    model = detector("neck=bifpn", "neck.topology.repeats=1")
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    norms_of_one_value(model, *ONE)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert not any("forward" in vars(module) for module in model.modules())  # every norm still norms
