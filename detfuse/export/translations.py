"""What torch's exporter cannot write as ONNX by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision.ops  # noqa: F401  it registers the operators named below


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operator -> how it is said in ONNX. Needs onnxscript.

    onnxscript has RoI pooling too, but by the arguments of torchvision's function, which are not its operator's.
    """
    from onnxscript import opset18

    def roi_pool(x: Any, regions: Any, scale: float, height: int, width: int) -> tuple[Any, Any]:
        pooled = opset18.MaxRoiPool(x, regions, pooled_shape=(height, width), spatial_scale=scale)
        return pooled, pooled  # in place of where the maxima were, which only a gradient asks for

    return {torch.ops.torchvision.roi_pool.default: roi_pool}
