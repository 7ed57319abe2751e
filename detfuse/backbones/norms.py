"""What happens to the normalisation layers of a backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from timm.layers.norm_act import convert_sync_batchnorm, freeze_batch_norm_2d
from torch import nn

from detfuse.ranges import checked

Norm = Literal["train", "frozen", "sync"]
"""``train``: as the model has them; ``frozen``: BatchNorm with fixed statistics and scales, for batches of one or two
images on pretrained weights; ``sync``: BatchNorm statistics over all processes (GPUs; one process: as ``train``)."""


_CONVERSIONS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "train": lambda module: module,
    "frozen": freeze_batch_norm_2d,
    "sync": convert_sync_batchnorm,
}


@checked
def convert_norms(module: nn.Module, norm: Norm) -> nn.Module:
    """Convert every BatchNorm of ``module``, in place; layers of other kinds (LayerNorm ...) stay as they are.

    Returns:
        The module, or its replacement if it is a BatchNorm itself.

    Raises:
        ValueError: if ``norm`` is none of the three.
    """
    # timm's functions are used for torchvision's models too: they know torch's BatchNorm and timm's fused
    # BatchNorm + activation, whose activation torch's own conversion would drop.
    return _CONVERSIONS[norm](module)
