"""On what a run computes, and in which number format: as Lightning decides it, for what runs without a trainer.

Prediction, the trial of an ablation's arms and the measurement of their latency all go by this, so that what they do
and measure is what a run does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator
from pytorch_lightning.plugins.precision import HalfPrecision, MixedPrecision, Precision

from detfuse.errors import InputError


def compute_device(accelerator: str = "auto", devices: Any = 1) -> torch.device:
    """The first device of a run with these settings of the trainer.

    Args:
        accelerator: ``auto`` takes Apple's GPU, then NVIDIA's, then the CPU; ``gpu`` is either of the GPUs.
        devices: how many, or which.

    Raises:
        ValueError: if there is no such device here.
    """
    found: dict[str, Callable[[], bool]] = {
        "mps": MPSAccelerator.is_available,
        "cuda": CUDAAccelerator.is_available,
        "cpu": lambda: True,
    }
    wanted = {"auto": ("mps", "cuda", "cpu"), "gpu": ("mps", "cuda")}.get(accelerator, (accelerator,))
    unknown = [kind for kind in wanted if kind not in found]
    if unknown:
        raise InputError(f"trainer.accelerator={accelerator}: choose one of auto, gpu, {', '.join(found)}")
    kind = next((kind for kind in wanted if found[kind]()), None)
    if kind is None:
        raise InputError(f"trainer.accelerator={accelerator}: torch sees no such device here")
    return torch.device(kind) if kind == "cpu" else torch.device(kind, _first(devices))


def name_of(device: torch.device) -> str:
    """A device for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _first(devices: Any) -> int:
    """Index of the first of ``trainer.devices``: a number of devices, a list of indices, or either as text."""
    if isinstance(devices, str) and "," in devices:
        devices = devices.split(",")
    return int(devices[0]) if isinstance(devices, list | tuple) and devices else 0


def precision_of(name: str | int, device: torch.device) -> Precision:
    """How a run with this ``trainer.precision`` computes: converts modules and inputs, and has a context for the rest.

    Args:
        name: such as ``bf16-mixed``.
        device: what it computes on; a CPU has no float16, ``16-mixed`` is ``bf16-mixed`` there.

    Raises:
        ValueError: if there is no such precision.
    """
    name = str(name)
    if name == "16-mixed" and device.type == "cpu":
        name = "bf16-mixed"
    if name in ("16-mixed", "bf16-mixed"):
        return MixedPrecision(name, device.type)  # type: ignore[arg-type]  # one of the two
    if name in ("16-true", "bf16-true"):
        return HalfPrecision(name)  # type: ignore[arg-type]  # likewise
    if name == "32-true":
        return Precision()
    raise InputError(f"trainer.precision={name}: choose one of 32-true, 16-mixed, bf16-mixed, bf16-true")


def memory_format_of(config: Mapping[str, Any]) -> torch.memory_format:
    """In which order a run keeps weights and images."""
    return torch.channels_last if config["module"].get("channels_last", True) else torch.contiguous_format


def bytes_of(precision: Precision) -> int:
    """Bytes of a number that convolutions compute with."""
    return 4 if str(precision.precision) == "32-true" else 2
