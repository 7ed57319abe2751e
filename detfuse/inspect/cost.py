"""What a detector and its parts cost: parameters, and operations of inference, counted on shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from detfuse.attention.inserts import inserts_of
from detfuse.errors import InputError
from detfuse.structures import Size

PARTS = ("backbone", "neck", "head")


@dataclass(frozen=True)
class Cost:
    """What a module costs.

    Attributes:
        parameters: number of weights, those of frozen layers included, buffers not.
        trainable: number of weights that learn.
        flops: floating-point operations of one inference; a multiply-add counts as two. Convolutions and matrix
            products are counted, as torch's FlopCounterMode does; norms, activations, pooling and resampling are not.
    """

    parameters: int
    trainable: int
    flops: int


@dataclass(frozen=True)
class Trace:
    """What one image shows of a detector.

    Attributes:
        costs: of the detector (``""``) and of its modules by name, such as ``backbone`` and ``neck.p3``. Operations are
            those up to the candidates that are left to combine, whose number is fixed.
        outputs: part -> what it returns, every tensor replaced by its shape.
        maps: dotted name of an insert -> shape (1, C, H, W) of every map that passes it.
    """

    costs: Mapping[str, Cost]
    outputs: Mapping[str, Any]
    maps: Mapping[str, Sequence[tuple[int, ...]]]


def trace(detector: nn.Module, image_size: Size) -> Trace:
    """Follow one image through the detector.

    A copy of it computes without data: no state of the detector changes, and large images cost no time.

    Args:
        detector: has ``backbone``, ``neck``, ``head`` and ``candidates``, a function of (images uint8 (B, 3, H, W),
            image_sizes (B, 2)).
        image_size: (height, width) in pixels, padded: multiples of the backbone's coarsest stride.

    Raises:
        InputError: if it makes weights in forward.
    """
    device = next(detector.parameters()).device
    outputs: dict[str, Any] = {}
    maps: dict[str, list[tuple[int, ...]]] = {}

    def infer(twin: Any) -> None:
        for part in PARTS:
            getattr(twin, part).register_forward_hook(
                lambda _module, _inputs, output, part=part: outputs.__setitem__(part, _shapes(output))
            )
        for name, insert in inserts_of(twin).items():
            insert.attention.register_forward_hook(  # towers are called once per level
                lambda _module, _inputs, output, name=name: maps.setdefault(name, []).append(tuple(output.shape))
            )
        images = torch.zeros(1, 3, *image_size, dtype=torch.uint8, device=device)
        # not forward alone: a head may compute later, on what it has chosen
        twin.candidates(images, torch.tensor([list(image_size)], device=device))

    counts = _counted(detector, infer)
    counts["head"] = counts[""] - sum(counts.get(part, 0) for part in ("backbone", "neck"))
    costs = {name: _cost(module, _flops(counts, name, module)) for name, module in detector.named_modules()}
    return Trace(costs, outputs, maps)


def cost_of_neck(neck: nn.Module, shapes: Sequence[tuple[int, ...]]) -> Cost:
    """Cost of a neck by itself, which may lie on the meta device.

    Args:
        neck: stays as it is.
        shapes: (B, C, H, W) of its inputs.
    """
    device = next((tensor.device for tensor in _tensors(neck)), "meta")
    counts = _counted(neck, lambda twin: twin([torch.empty(shape, device=device) for shape in shapes]))
    return _cost(neck, counts[""])


def _counted(module: nn.Module, call: Callable[[Any], object]) -> dict[str, int]:
    """Operations of what is done with a copy of a module: in all (``""``), and of its modules that were called."""
    twin = copy.deepcopy(module).eval()  # a head may cache anchors: the twin's never leave this function
    twin.requires_grad_(False)  # the counter hooks the gradient of what a module is called with; a weight then has none
    counter = FlopCounterMode(display=False)
    has_numbers = any(not tensor.is_meta for tensor in _tensors(twin))
    shapes_alone = FakeTensorMode(allow_non_fake_inputs=True) if has_numbers else nullcontext()
    with torch.no_grad(), shapes_alone, counter:
        call(twin)
    _require_all_made(module, twin)
    root = f"{type(twin).__name__}."
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    return {"": counter.get_total_flops()} | {
        name.removeprefix(root): count for name, count in counts.items() if name.startswith(root)
    }


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _require_all_made(module: nn.Module, after: nn.Module) -> None:
    """Refuse a module that has more weights after a forward pass than before."""
    before = {name for name, _ in module.named_parameters()}
    made = [name for name, _ in after.named_parameters() if name not in before]
    if made:
        raise InputError(
            f"{', '.join(made)} of {type(module).__name__}: made in forward, where weights have no seed and no "
            "optimizer. Make every layer in __init__: a neck and a head find the channels of their inputs in "
            "in_spec.channels"
        )


def _cost(module: nn.Module, flops: int) -> Cost:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return Cost(sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns), flops)


def _flops(counts: Mapping[str, int], name: str, module: nn.Module) -> int:
    """Operations of one module; one that is never called itself has those of its members."""
    if name in counts:
        return counts[name]
    return sum(_flops(counts, f"{name}.{key}", child) for key, child in module.named_children())


def _shapes(output: Any) -> Any:
    """The output with every tensor replaced by its shape."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        return {key: _shapes(value) for key, value in output._asdict().items()}
    if isinstance(output, Mapping):
        return {str(key): _shapes(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return [_shapes(value) for value in output]
    return None
