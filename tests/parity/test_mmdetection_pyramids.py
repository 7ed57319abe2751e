"""GraphNeck's FPN and PAFPN against outputs of mmdetection's modules on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from detfuse.fusion.operators import Add
from detfuse.fusion.resample import Nearest, StridedConv
from detfuse.necks.graph_neck import GraphNeck
from detfuse.necks.topologies import fpn, pafpn
from detfuse.structures import FeatureSpec

# fixture: options of the topology, of the neck
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mm_fpn_plain": ({"extra": "max_pool"}, {}),
    "mm_fpn_odd": ({"extra": "max_pool"}, {}),
    "mm_fpn_on_input": ({"extra": "from_c"}, {}),
    "mm_fpn_on_output_relu": ({"extra": "from_p"}, {}),
    "mm_pafpn_plain": ({"extra": "max_pool"}, {}),
    "mm_pafpn_odd": ({"extra": "max_pool"}, {}),
    "mm_pafpn_on_input": ({"extra": "from_c"}, {}),
    "mm_pafpn_on_output_relu": ({"extra": "from_p"}, {}),
}


def names(levels: list[int], extra: str, bottom_up: bool) -> dict[str, str]:
    """Our module names to mmdetection's."""
    smoothed = {i: f"f{i}" if bottom_up and i > levels[0] else f"p{i}" for i in levels}
    result = {}
    for k, i in enumerate(levels):
        result[f"edges.c{i}->t{i}.project.0"] = f"lateral_convs.{k}.conv"
        result[f"blocks.{smoothed[i]}.0"] = f"fpn_convs.{k}.conv"
    if bottom_up:
        for k, i in enumerate(levels[1:]):
            below = f"n{i - 1}" if k else f"p{levels[0]}"
            result[f"edges.{below}->n{i}.resample.stages.0"] = f"downsample_convs.{k}.conv"
            result[f"blocks.p{i}.0"] = f"pafpn_convs.{k}.conv"
    if extra != "max_pool":
        source = f"c{levels[-1]}" if extra == "from_c" else f"p{levels[-1]}"
        result[f"edges.{source}->p{levels[-1] + 1}.resample.stages.0"] = f"fpn_convs.{len(levels)}.conv"
    return result


@pytest.mark.parametrize("case", CASES)
def test_equals_mmdetection(case: str, reference: Callable[[str], dict[str, Tensor]]) -> None:
    options, style = CASES[case]
    numbers = reference(case)
    features = [numbers[f"in.x.{i}"] for i in range(4)]
    topology = partial(pafpn if "pafpn" in case else fpn, extra_levels=1, **options)
    spec = FeatureSpec(tuple(x.shape[1] for x in features), (4, 8, 16, 32))
    neck = GraphNeck(spec, Add, Nearest, StridedConv, topology=topology, out_channels=8, **style).eval()
    pairs = names([2, 3, 4, 5], options["extra"], bottom_up="pafpn" in case)
    neck.load_state_dict({f"{a}.{k}": numbers[f"sd.{b}.{k}"] for a, b in pairs.items() for k in ("weight", "bias")})
    for i, result in enumerate(neck(features)):
        torch.testing.assert_close(result, numbers[f"out.{i}"], rtol=1e-5, atol=1e-5)
