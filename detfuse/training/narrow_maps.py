"""Right gradients in bfloat16 on a CPU where a convolution strides over a map that is narrower than its stride.

There torch's kernels return weight gradients that were never written: some numbers that happen to lie in memory, NaN
and infinity among them (oneDNN as of torch 2.14, on AVX-512; the coarsest levels of images of 64 pixels meet it). A
column of zeros more, which the padding has anyway, makes them use another kernel, and changes nothing else.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def widen_narrow_maps(detector: nn.Module, precision: str) -> None:
    """See that every convolution gets a map at least as wide as its stride, where that matters; outputs stay the same.

    Args:
        detector: where it computes.
        precision: in which it is trained, such as ``bf16-mixed``.
    """
    if not precision.startswith("bf16") or next(detector.parameters()).device.type != "cpu":
        return
    for module in detector.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size[1] > 1 and _has_room(module):
            module.register_forward_pre_hook(_widened)


def _has_room(conv: nn.Conv2d) -> bool:
    """Whether a map within the stride has one column of outputs, so that zeros beside it bring no other."""
    kernel = conv.dilation[1] * (conv.kernel_size[1] - 1) + 1
    return conv.stride[1] > 1 and not isinstance(conv.padding, str) and 2 * conv.padding[1] < kernel


def _widened(conv: nn.Conv2d, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    (x,) = given
    missing = conv.stride[1] - x.shape[-1]
    return (F.pad(x, (0, missing)),) if missing > 0 else None
