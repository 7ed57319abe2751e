"""How a new convolution starts: uniform numbers of variance 1 / fan, and no bias.

The rules differ in what they count as the fan:

* ``fan_in``: the numbers that one output sums, so that a convolution keeps the mean square of what it reads. Caffe's
  and Caffe2's ``XavierFill`` (FPN, RetinaNet, PANet, SSD, FSSD); in torch's terms Kaiming-uniform with a = 1.
* ``fan_avg``: the mean of that and of the outputs that one input reaches, each within its group. Glorot and Bengio
  (2010, https://proceedings.mlr.press/v9/glorot10a.html), TensorFlow's default and so EfficientDet's. It is wider where
  a convolution narrows: by a third on a lateral from 2048 to 256 channels.

What torch gives a convolution by itself has a third of ``fan_in``'s variance.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from detfuse.ranges import checked

Fill = Literal["fan_in", "fan_avg"]


@checked
def fill_convolutions(part: nn.Module, rule: Fill = "fan_in") -> None:
    """Start every convolution of a part by one rule.

    Transposed convolutions are left alone, and so is a module that says ``own_start = True``, with all below it: its
    constructor has started it already, as that of a gate which begins at zero.

    Args:
        part: a convolution, or what contains some.
        rule: see the module's header.

    Raises:
        InputError: if there is no such rule.
    """
    if getattr(part, "own_start", False):
        return
    if isinstance(part, nn.Conv2d):
        fill_uniform(part, _fan(part, rule))
    for child in part.children():
        fill_convolutions(child, rule)


def fill_uniform(layer: nn.Conv2d | nn.Linear, fan: float) -> None:
    """Start one layer from uniform numbers of variance 1 / ``fan``, and no bias."""
    bound = math.sqrt(3 / fan)
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _fan(layer: nn.Conv2d, rule: Fill) -> float:
    per_channel = math.prod(layer.kernel_size) / layer.groups
    fan_in, fan_out = layer.in_channels * per_channel, layer.out_channels * per_channel
    return fan_in if rule == "fan_in" else (fan_in + fan_out) / 2
