from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detfuse.fusion.operators import Add, Concat, Mean
from detfuse.fusion.resample import Nearest, StridedConv
from detfuse.inspect.cost import (
    Spread,
    compare_times,
    count,
    inference,
    random_features,
    saved_bytes,
    start_scale,
    training_step,
)
from detfuse.necks.graph_neck import GraphNeck
from detfuse.protocols import OperatorFactory
from detfuse.structures import FeatureSpec

SPEC = FeatureSpec((6, 10), (8, 16))
WIDTH = 4
FINE, COARSE = 4 * 8, 2 * 4  # pixels of the maps of an image of 32 x 64


def neck_with(operator: OperatorFactory, **style: str) -> GraphNeck:
    """Both levels projected to 4 channels, fused at the finer one."""
    nodes = [{"name": "p3", "level": 3, "inputs": ["c3", "c4"]}]
    return GraphNeck(SPEC, operator, Nearest, StridedConv, nodes=nodes, outputs=["p3"], out_channels=WIDTH, **style)


def features(batch: int = 1) -> list[Tensor]:
    return random_features(SPEC, (32, 64), batch, device=torch.device("cpu"), memory_format=torch.contiguous_format)


class Chain(nn.Module):
    """A convolution and a ReLU on one map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, WIDTH, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [self.relu(self.conv(maps[0]))]


def test_features_are_those_of_the_spec() -> None:
    assert [tuple(x.shape) for x in features(2)] == [(2, 6, 4, 8), (2, 10, 2, 4)]
    assert all(x.requires_grad for x in features())
    assert all(torch.equal(a, b) for a, b in zip(features(), features(), strict=True))


def test_weights_and_multiply_adds_are_those_counted_by_hand() -> None:
    projections = (6 + 1) * WIDTH + (10 + 1) * WIDTH
    of_projections = FINE * 6 * WIDTH + COARSE * 10 * WIDTH
    added, concatenated = count(neck_with(Add), features()), count(neck_with(Concat), features())
    assert added.parameters == projections
    assert added.multiply_adds == of_projections
    assert concatenated.parameters == projections + (2 * WIDTH + 1) * WIDTH
    assert concatenated.multiply_adds == of_projections + FINE * 2 * WIDTH * WIDTH
    assert count(neck_with(Add), features(3)).multiply_adds == 3 * of_projections


def test_saved_bytes_are_those_counted_by_hand() -> None:
    maps = features()[:1]
    # the convolution keeps its input, the ReLU its result; the convolution's weight is there anyway
    assert saved_bytes(Chain(), maps) == 4 * FINE * (6 + WIDTH)


def test_a_map_kept_twice_counts_once() -> None:
    class Twice(Chain):
        def forward(self, maps: list[Tensor]) -> list[Tensor]:
            return [self.conv(maps[0]), self.conv(maps[0])]

    assert saved_bytes(Twice(), features()[:1]) == 4 * FINE * 6


def test_add_keeps_nothing_and_concat_its_stack() -> None:
    inputs = 4 * (FINE * 6 + COARSE * 10)
    assert saved_bytes(neck_with(Add), features()) == inputs
    assert saved_bytes(neck_with(Concat), features()) == inputs + 4 * FINE * 2 * WIDTH


def test_counting_leaves_the_neck_as_it_is() -> None:
    neck, maps = neck_with(Concat, norm="batch"), features(2)
    before = {key: value.clone() for key, value in neck.state_dict().items()}
    count(neck.eval(), maps)
    training_step(neck, maps)()
    assert all(torch.equal(value, before[key]) for key, value in neck.state_dict().items())
    assert not neck.training
    assert all(tensor.grad is None for tensor in (*maps, *neck.parameters()))


def test_times_have_a_spread_and_compare_with_the_reference() -> None:
    maps = features()
    runs = {"add": inference(neck_with(Add), maps), "concat": inference(neck_with(Concat), maps)}
    times = compare_times(runs, "add", rounds=3)
    assert list(times.ratios) == ["add", "concat"]
    for spread in (times.reference, *times.ratios.values()):
        assert 0 < spread.low <= spread.median <= spread.high


def test_the_order_of_measurements_pairs_each_with_the_reference() -> None:
    called: list[str] = []
    runs = {name: (lambda name=name: called.append(name)) for name in ("add", "concat", "max")}
    compare_times(runs, "add", rounds=2)
    order = [name for index, name in enumerate(called) if index == 0 or called[index - 1] != name]
    assert order == ["add", "concat", "add", "max"] * 2


def test_a_spread_is_made_of_quartiles() -> None:
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(median=3.0, low=2.0, high=4.0)


def test_the_scale_is_that_of_the_outputs_in_training_and_leaves_no_trace() -> None:
    assert all(x.min() >= 0 for x in features()), "as behind a ReLU"
    neck = neck_with(Add, norm="batch")
    state = {name: value.clone() for name, value in neck.state_dict().items()}
    # two maps that batch norms bring to mean 0 and variance 1, one of them in blocks of 2 x 2 pixels
    assert 1 < start_scale(neck, features(4)) < 2
    assert all(torch.equal(value, state[name]) for name, value in neck.state_dict().items())
    torch.manual_seed(0)
    total = start_scale(neck_with(Add), features())
    torch.manual_seed(0)
    assert total == pytest.approx(2 * start_scale(neck_with(Mean), features()), rel=1e-5)
