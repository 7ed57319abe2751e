"""What fusion learns is written as it was validated."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from quadrants import Fit, Quadrants, make_module  # type: ignore[import-not-found]  # pytest's path
from torch import nn

from detfuse.attention.sagan import SAGAN
from detfuse.fusion.operators import Add, FastNormalized, Softmax
from detfuse.fusion.resample import Nearest, StridedConv
from detfuse.inspect.learnt_weights import learnt_weights
from detfuse.necks.graph_neck import GraphNeck
from detfuse.structures import FeatureSpec
from detfuse.training.ema import ExponentialMovingAverage
from detfuse.training.fusion_weights import FusionWeights

# two projections of the one map there is, fused
NODES = [
    {"name": "a4", "level": 4, "inputs": ["c4"]},
    {"name": "b4", "level": 4, "inputs": ["c4"]},
    {"name": "p4", "level": 4, "inputs": ["a4", "b4"]},
]


def module_with(operator: Any, data: Quadrants) -> Any:
    module = make_module(data)
    torch.manual_seed(0)
    spec = FeatureSpec((8,), (16,))
    module.detector.neck = GraphNeck(spec, operator, Nearest, StridedConv, nodes=NODES, outputs=["p4"], out_channels=8)
    return module


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "fusion_weights.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("operator", [partial(FastNormalized, eps=0.0), Softmax])
def test_each_validation_writes_normalised_shares(fit: Fit, tmp_path: Path, operator: Any) -> None:
    data = Quadrants()
    module, _ = fit(data, module_with(operator, data), [FusionWeights()], max_epochs=3)
    found = rows(tmp_path)
    assert list(found[0]) == ["epoch", "step", "p4<-a4", "p4<-b4"]
    assert [row["epoch"] for row in found] == ["0", "1", "2"]
    shares = [[float(row["p4<-a4"]), float(row["p4<-b4"])] for row in found]
    assert shares[0] != shares[-1]
    assert all(sum(pair) == pytest.approx(1) for pair in shares)
    assert shares[-1] == pytest.approx(module.detector.neck.operators["p4"].shares().tolist())


def test_the_validated_average_is_written_not_the_trained_weights(fit: Fit, tmp_path: Path) -> None:
    data = Quadrants()
    average = ExponentialMovingAverage(decay=0.5)
    module, _ = fit(data, module_with(Softmax, data), [average, FusionWeights()])
    written = float(rows(tmp_path)[-1]["p4<-a4"])
    assert isinstance(average.average, nn.Module)
    assert written == pytest.approx(learnt_weights(average.average)["p4<-a4"])
    assert written != pytest.approx(learnt_weights(module.detector)["p4<-a4"], abs=1e-9)


def test_inserts_are_named_by_their_path_and_none_leave_no_file(fit: Fit, tmp_path: Path) -> None:
    data = Quadrants()
    module = module_with(Add, data)
    fit(data, module, [FusionWeights()], max_epochs=1)
    assert not (tmp_path / "fusion_weights.csv").exists()
    module.detector.neck.insert = SAGAN(8)
    assert learnt_weights(module.detector) == {"neck.insert.gamma": 0.0}
