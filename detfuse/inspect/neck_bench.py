"""A neck by itself on maps like a backbone's: what it keeps in memory, its scale at the start, what is timed of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from detfuse.structures import FeatureSpec, Size


def random_features(
    spec: FeatureSpec,
    image_size: Size,
    batch: int,
    *,
    device: torch.device,
    memory_format: torch.memory_format,
) -> list[Tensor]:
    """Maps (B, C_i, H / stride_i, W / stride_i) like a backbone's, with gradients: ReLUs of fixed normal numbers.

    Args:
        spec: of the maps.
        image_size: (height, width) in pixels, multiples of the coarsest stride.
        batch: number of images B.
        device: where they lie.
        memory_format: how they lie there.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = image_size
    shapes = [(batch, c, height // s, width // s) for c, s in zip(spec.channels, spec.strides, strict=True)]
    maps = [torch.randn(shape, generator=generator).relu() for shape in shapes]
    return [x.to(device, memory_format=memory_format).requires_grad_() for x in maps]


def saved_bytes(module: nn.Module, features: Sequence[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass in training: the activation memory of ``module``.

    Every storage counts once, however many operations keep it; parameters and buffers do not count, they are there
    anyway. An input counts if an operation keeps it. It does not include what an operation needs for a moment.

    Args:
        module: ``forward`` takes the list of maps.
        features: its inputs.
    """
    twin = copy.deepcopy(module).train()  # a forward pass in training moves the statistics of norms
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*twin.parameters(), *twin.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = twin(features)  # held while counting: an address freed could be given to another storage
    del outputs
    return sum(kept.values())


def deviation(maps: Sequence[Tensor]) -> float:
    """Standard deviation over all values of all maps, in float32."""
    values = torch.cat([x.detach().float().flatten() for x in maps])
    return float(values.std(correction=0))


def start_scale(neck: nn.Module, features: Sequence[Tensor]) -> float:
    """Standard deviation of what the neck makes in training, all outputs together; the neck stays as it is."""
    twin = copy.deepcopy(neck).train()
    with torch.no_grad():
        return deviation(twin([x.detach() for x in features]))


def inference(neck: nn.Module, features: Sequence[Tensor]) -> Callable[[], None]:
    """One forward pass without gradients, to be timed."""
    twin = copy.deepcopy(neck).eval()
    inputs = [x.detach() for x in features]

    def run() -> None:
        with torch.inference_mode():
            twin(inputs)

    return run


def training_step(neck: nn.Module, features: Sequence[Tensor]) -> Callable[[], None]:
    """One forward and backward pass, to the weights and to the features, to be timed."""
    twin = copy.deepcopy(neck).train()
    learnt = [*features, *(parameter for parameter in twin.parameters() if parameter.requires_grad)]

    def run() -> None:
        outputs = twin(features)
        torch.autograd.grad(outputs, learnt, [torch.ones_like(x) for x in outputs], allow_unused=True)

    return run
