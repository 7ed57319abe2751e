"""Norms that would be computed from a single value, found before a run.

The mean of one value is the value, so that the norm makes a constant of whatever the image shows; torch refuses most of
them, but not before the step that meets one. It happens where a map is 1 x 1, as P7 of a 128-pixel image, and the batch
a single image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from detfuse.attention.inserts import Insert, inserts_of
from detfuse.errors import InputError
from detfuse.protocols import Size

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_NORMS = (*_BATCH_NORMS, *_INSTANCE_NORMS, nn.GroupNorm, nn.LayerNorm)
_NAMED = 6  # norms in the message; the others are counted


def norms_of_one_value(
    detector: nn.Module, batch: int, image_size: Size, *, processes: int = 1
) -> dict[str, nn.Module]:
    """The norms that have one value per statistic in a training step, by their dotted names.

    The step is tried on shapes alone, without data: no state of the detector changes, and large images cost no time.

    Args:
        detector: takes images uint8 (B, 3, H, W) and image_sizes (B, 2); norms that it keeps in evaluation mode while
            it trains, such as frozen ones, use no statistics of the batch.
        batch: images of the smallest batch of a process.
        image_size: (height, width) of the smallest image, padded.
        processes: that a synchronised batch norm counts together.
    """
    device = next(detector.parameters()).device
    twin = copy.deepcopy(detector).train()
    norms = {name: module for name, module in twin.named_modules() if isinstance(module, _NORMS)}
    if all(_values(norm, _smallest_map(norm, batch), processes) != 1 for norm in norms.values()):
        return {}  # whatever the images; so it is with almost every detector where a batch has two of them
    values: dict[str, int] = {}
    for name, norm in norms.items():
        norm.forward = _counting(name, norm, processes, values)  # type: ignore[assignment]  # of the twin only
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.zeros(batch, 3, *image_size, dtype=torch.uint8, device=device)
        twin(images, torch.tensor([list(image_size)] * batch, device=device))
    return {name: detector.get_submodule(name) for name, least in values.items() if least == 1}


def _counting(name: str, norm: nn.Module, processes: int, values: dict[str, int]) -> Callable[[Tensor], Tensor]:
    """In the place of a norm: notes the least number of values per statistic, and passes the map on."""

    def forward(x: Tensor) -> Tensor:
        if (count := _values(norm, x.shape, processes)) is not None:
            values[name] = min(count, values.get(name, count))
        return x

    return forward


def _smallest_map(norm: nn.Module, batch: int) -> torch.Size:
    return torch.Size([batch, norm.num_channels if isinstance(norm, nn.GroupNorm) else 1, 1, 1])


def _values(norm: nn.Module, shape: torch.Size, processes: int) -> int | None:
    """How many values of a map (B, C, ...) a statistic is taken of; None if none is taken."""
    if isinstance(norm, _BATCH_NORMS):
        if not norm.training and norm.running_mean is not None:
            return None
        return shape.numel() // shape[1] * (processes if isinstance(norm, nn.SyncBatchNorm) else 1)
    if isinstance(norm, _INSTANCE_NORMS):
        return None if not norm.training and norm.track_running_stats else math.prod(shape[2:])
    if isinstance(norm, nn.GroupNorm):
        return shape.numel() // shape[0] // norm.num_groups
    assert isinstance(norm, nn.LayerNorm)
    return math.prod(norm.normalized_shape)


def require_statistics(detector: nn.Module, batch: int, image_size: Size, *, processes: int = 1) -> None:
    """Refuse a detector with a norm that has only one value per statistic in some step of training.

    Args:
        detector: see :func:`norms_of_one_value`.
        batch: likewise.
        image_size: likewise.
        processes: likewise.

    Raises:
        ValueError: naming the norms and their places, and what helps there.
    """
    found = norms_of_one_value(detector, batch, image_size, processes=processes)
    if not found:
        return
    places = [_place(detector, name, norm) for name, norm in found.items()]
    listed = ", ".join(places[:_NAMED]) + (f" and {len(places) - _NAMED} more" if len(places) > _NAMED else "")
    images = f"{batch} image{'s' if batch > 1 else ''} of {image_size[0]} x {image_size[1]} pixels per process"
    raise InputError(
        f"{len(found)} norm{'s have' if len(found) > 1 else ' has'} 1 value per statistic, from which none can be "
        f"computed, in the smallest step of training ({images}): {listed}. What helps: "
        + ", or ".join(_remedies(detector, found))
    )


def _insert_around(detector: nn.Module, name: str) -> Insert | None:
    inside = (insert for prefix, insert in inserts_of(detector).items() if name.startswith(f"{prefix}."))
    return next(inside, None)


def _place(detector: nn.Module, name: str, norm: nn.Module) -> str:
    insert = _insert_around(detector, name)
    where = name if insert is None else f"of {insert.kind} at {insert.site} {insert.at}"
    return f"{type(norm).__name__} {where}"


def _remedies(detector: nn.Module, found: dict[str, nn.Module]) -> list[str]:
    """What helps each of them, the nearest first, everything once."""
    remedies: list[str] = []
    for name, norm in found.items():
        if (insert := _insert_around(detector, name)) is not None:
            remedies.append(
                f"finer levels for {insert.kind} (attention.levels.{insert.site}) or attention without a norm (se, eca)"
            )
        elif name.startswith("backbone."):
            remedies.append("backbone.norm=frozen (on pretrained weights)")
        elif name.startswith(("neck.", "head.")) and not isinstance(norm, nn.GroupNorm | nn.LayerNorm):
            remedies.append(f"{name.partition('.')[0]}.norm=group")
    kinds = tuple(found.values())
    if any(isinstance(norm, _BATCH_NORMS) for norm in kinds):
        remedies.append("a larger data.loader.batch_size (it counts per process)")
    if any(isinstance(norm, _BATCH_NORMS + _INSTANCE_NORMS) for norm in kinds):
        remedies.append("larger images (data.transform), or fewer levels (neck.topology.extra_levels)")
    if any(isinstance(norm, nn.GroupNorm | nn.LayerNorm) for norm in kinds):
        remedies.append("wider maps, so that a group has more channels")
    return list(dict.fromkeys(remedies))
