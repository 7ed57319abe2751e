"""The memory of attention between all pairs of positions, predicted before a run.

It grows with the square of the number of positions: a map of 100 x 152 has 15,200 of them, and one matrix for 8 images
takes 6.9 GiB in float32. What cannot fit is refused with the number, rather than met as a failure hours later.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from detfuse.attention.inserts import inserts_of
from detfuse.errors import InputError
from detfuse.inspect.summary import maps_at_inserts
from detfuse.protocols import Size

_GIB = 2**30
_MATRICES_AT_THE_WORST = 3  # what ``peak_bytes`` counts; one of them stays from the forward pass to the backward pass


def least_bytes(detector: nn.Module, image_size: Size, batch: int, dtype_bytes: int) -> dict[str, int]:
    """Per quadratic insert, by its dotted name: bytes of its matrices at the worst moment of a training step.

    Args:
        detector: with backbone, neck and head.
        image_size: (height, width) of the largest batch, padded.
        batch: images per device.
        dtype_bytes: of the type that convolutions compute in: 4, or 2 under autocast.
    """
    inserts = inserts_of(detector)
    found = {}
    for name, shapes in maps_at_inserts(detector, image_size).items():
        peak = getattr(inserts[name].attention, "peak_bytes", None)
        if peak is not None:
            found[name] = sum(peak(shape[2], shape[3], batch, dtype_bytes) for shape in shapes)
    return found


def require_fit(detector: nn.Module, image_size: Size, batch: int, *, dtype_bytes: int, available: int | None) -> None:
    """Refuse a detector whose attention alone needs more memory than there is.

    The bound is a lower one: the worst moment of the largest insert, beside what the others keep from their forward
    pass. Weights, maps and the optimizer come on top.

    Args:
        detector: see :func:`least_bytes`.
        image_size: likewise.
        batch: likewise.
        dtype_bytes: likewise.
        available: bytes of the device; None if that is not known.

    Raises:
        ValueError: with the numbers, and how to need less.
    """
    needs = least_bytes(detector, image_size, batch, dtype_bytes)
    if not needs or available is None:
        return
    largest = max(needs, key=needs.__getitem__)
    total = needs[largest] + (sum(needs.values()) - needs[largest]) // _MATRICES_AT_THE_WORST
    if total <= available:
        return
    insert = inserts_of(detector)[largest]
    raise InputError(
        f"attention needs at least {total / _GIB:.1f} GiB for the matrices of one training step ({batch} images of "
        f"{image_size[0]} x {image_size[1]} pixels, the largest batch of this data as it is augmented), but the device "
        f"has {available / _GIB:.1f} GiB. Most of it, {needs[largest] / _GIB:.1f} GiB, is {insert.kind} at "
        f"{insert.site} {insert.at}. What helps: coarser levels (attention.levels.{insert.site}=[5]), "
        f"attention.{insert.site}.sub_sample=true, a smaller data.loader.batch_size or "
        "data.transform.short_side, or attention whose memory is linear (se, eca, cbam, gc)"
    )


def device_memory(device: torch.device) -> int | None:
    """Bytes of a device: a GPU's, else what this machine (or the container's limit) has; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    given = limit.read_text().strip() if limit.is_file() else ""
    return min(physical, int(given)) if given.isdecimal() else physical
