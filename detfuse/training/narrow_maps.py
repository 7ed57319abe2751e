"""Right gradients in bfloat16 on a CPU where a convolution strides over a map that is narrower than its stride.

There torch's kernels return weight gradients that were never written: some numbers that happen to lie in memory, NaN
and infinity among them (oneDNN as of torch 2.14, on AVX-512; the coarsest levels of images of 64 pixels meet it). A
column of zeros more, which the padding has anyway, makes them use another kernel, and changes nothing else.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def widen_narrow_maps(detector: nn.Module) -> None:
    """See that every convolution gets a map at least as wide as its stride; outputs stay the same."""
    for module in detector.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size[1] > 1 and _has_room(module):
            module.register_forward_pre_hook(_widened)


def _has_room(conv: nn.Conv2d) -> bool:
    """Whether a map within the stride has one column of outputs, so that zeros beside it bring no other."""
    padding, kernel, stride = conv.padding, conv.dilation[1] * (conv.kernel_size[1] - 1) + 1, conv.stride[1]
    return stride > 1 and not isinstance(padding, str) and stride + 2 * padding[1] - kernel < stride


def _widened(conv: nn.Conv2d, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    (x,) = given
    missing = conv.stride[1] - x.shape[-1]
    return (F.pad(x, (0, missing)),) if missing > 0 else None
