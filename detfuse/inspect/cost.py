"""What a neck costs: parameters, multiply-adds, memory kept for the backward pass, and measured time.

Counts are exact and the same everywhere; times are measured, and therefore given with their spread. Beside them stands
the scale at which the neck's outputs start, which is no cost but comes with the choice of an operator as well.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detfuse.structures import FeatureSpec

_SECONDS = 0.02  # what one timing takes at least: shorter ones measure the machine's other work


@dataclass(frozen=True)
class Counts:
    """What can be counted.

    Attributes:
        parameters: number of weights.
        multiply_adds: of one forward pass, of convolutions and matrix products (as torch's FlopCounterMode counts);
            element-wise operations, norms, activations, pooling and resampling are not in it.
        saved_bytes: what autograd keeps between the forward and the backward pass, see :func:`saved_bytes`.
    """

    parameters: int
    multiply_adds: int
    saved_bytes: int


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements.

    Attributes:
        median: half of the measurements are below.
        low: a quarter is below.
        high: a quarter is above.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Times:
    """Measured times of several necks.

    Attributes:
        reference: seconds of the reference.
        ratios: name -> its time by that of the reference right before. The reference's own ratio compares it with
            itself, measured twice: what departs from 1 there is noise.
    """

    reference: Spread
    ratios: dict[str, Spread]


def random_features(
    spec: FeatureSpec,
    image_size: tuple[int, int],
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


def count(neck: nn.Module, features: Sequence[Tensor]) -> Counts:
    """Everything that needs no clock, for the batch of ``features``; the neck stays as it is."""
    return Counts(
        parameters=sum(parameter.numel() for parameter in neck.parameters()),
        multiply_adds=_multiply_adds(neck, features),
        saved_bytes=saved_bytes(neck, features),
    )


def _multiply_adds(neck: nn.Module, features: Sequence[Tensor]) -> int:
    counter = FlopCounterMode(display=False)
    twin = copy.deepcopy(neck).eval().to("meta")  # shapes without numbers: nothing is computed
    with torch.no_grad(), counter:
        twin([x.detach().to("meta") for x in features])
    return counter.get_total_flops() // 2


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


def compare_times(runs: Mapping[str, Callable[[], None]], reference: str, rounds: int) -> Times:
    """Time several things against one of them.

    In every round each is timed in its turn, right after the reference: a ratio compares neighbours, so that a machine
    that slows down slows both. The reference takes its turn too, after itself.

    Args:
        runs: what to time, by name; one call each.
        reference: the name that the others are compared with.
        rounds: at least two.
    """
    from torch.utils.benchmark import Timer  # with it comes much that warns where a toolkit lacks its GPU

    timers = {
        name: Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads()) for name, run in runs.items()
    }
    calls = max(2, math.ceil(_SECONDS / timers[reference].timeit(2).mean))
    base: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, timer in timers.items():
            base.append(timers[reference].timeit(calls).mean)
            ratios[name].append(timer.timeit(calls).mean / base[-1])
    return Times(Spread.of(base), {name: Spread.of(values) for name, values in ratios.items()})
