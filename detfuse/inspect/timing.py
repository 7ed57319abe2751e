"""How long things take, measured such that they can be compared on a machine that others use too."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

Call = Callable[[], object]

_SECONDS = 0.02  # what one timing takes at least: shorter ones measure the machine's other work
_MOST_ROUNDS, _FEWEST_ROUNDS = 15, 5
_ENOUGH_SECONDS = 20.0  # of all subjects together: then the fewest rounds suffice


@dataclass(frozen=True)
class Quartiles:
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
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Of at least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Times:
    """Measured times of several things.

    Attributes:
        reference: seconds of the reference.
        ratios: name -> its time by that of the reference right before. The reference's own ratio compares it with
            itself, measured twice: what departs from 1 there is noise.
    """

    reference: Quartiles
    ratios: dict[str, Quartiles]


def seconds_of(call: Call, device: torch.device, calls: int = 1) -> float:
    """Seconds that one of some calls takes, with all that it leaves its device to do."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    _wait(device)
    return (time.perf_counter() - start) / calls


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def with_threads(number: int) -> Iterator[None]:
    """Compute with so many threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare_times(runs: Mapping[str, Call], reference: str, rounds: int, device: torch.device) -> Times:
    """Time several things against one of them.

    In every round each is timed in its turn, right after the reference: a ratio compares neighbours, so that a machine
    that slows down slows both. The reference takes its turn too, after itself.

    Args:
        runs: what to time, by name; one call each.
        reference: the name that the others are compared with.
        rounds: at least two.
        device: that they compute on.
    """

    def timed(name: str, calls: int) -> float:
        seconds_of(runs[name], device, 2)  # warms up: what was timed before has left its own data in the caches
        return seconds_of(runs[name], device, calls)

    calls = max(2, math.ceil(_SECONDS / timed(reference, 2)))
    base: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in runs:
            base.append(timed(reference, calls))
            ratios[name].append(timed(name, calls) / base[-1])
    return Times(Quartiles.of(base), {name: Quartiles.of(values) for name, values in ratios.items()})


@dataclass(frozen=True)
class Timed:
    """What is timed beside others.

    Attributes:
        calls: as many as the others have, such as one for each image.
        device: that they compute on.
    """

    calls: Sequence[Call]
    device: torch.device


def time_in_rounds(subjects: Mapping[str, Timed]) -> dict[str, list[float]]:
    """Seconds of each subject in each round: the mean of its calls.

    The subjects take turns call by call, and each round begins with another one, so that a machine that slows down
    slows all of them. A round before the first warms up.

    Args:
        subjects: with equally many calls.
    """
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    order, start = list(subjects), time.perf_counter()
    for number in range(1 + _MOST_ROUNDS):
        if number > _FEWEST_ROUNDS and time.perf_counter() - start > _ENOUGH_SECONDS:
            break
        seconds: dict[str, list[float]] = {name: [] for name in subjects}
        for calls in zip(*(subject.calls for subject in subjects.values()), strict=True):
            call_of = dict(zip(subjects, calls, strict=True))
            for name in order:
                seconds[name].append(seconds_of(call_of[name], subjects[name].device))
        order = [*order[1:], *order[:1]]
        if number:
            for name, of_calls in seconds.items():
                taken[name].append(statistics.fmean(of_calls))
    return taken
