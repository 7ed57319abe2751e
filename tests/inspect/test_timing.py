"""Times that can be compared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detfuse.inspect import timing
from detfuse.inspect.timing import Call, Quartiles, Timed, compare_times, time_in_rounds, with_threads

CPU = torch.device("cpu")


def work(times: int) -> Call:
    """A convolution, done so many times over."""
    conv, maps = nn.Conv2d(16, 16, 3, padding=1), torch.zeros(1, 16, 24, 24)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(times):
                conv(maps)

    return run


def test_quartiles_are_those_of_the_values() -> None:
    assert Quartiles.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Quartiles(median=3.0, low=2.0, high=4.0)


def is_measured_as_slower(names: tuple[str, str]) -> bool:
    """Twenty times the work, and a call so short that other work on the machine rarely falls into it."""
    runs = {name: work({"quick": 1, "slow": 20}[name]) for name in names}
    with with_threads(1):
        seconds = time_in_rounds({name: Timed([run, run], CPU) for name, run in runs.items()})
        ratio = compare_times(runs, "quick", 9, CPU).ratios["slow"]
    return Quartiles.of(seconds["slow"]).low > 2 * Quartiles.of(seconds["quick"]).high and ratio.low > 2


@pytest.mark.parametrize("names", [("quick", "slow"), ("slow", "quick")])
def test_what_works_more_is_measured_as_slower(names: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SECONDS", 0.0)
    assert any(is_measured_as_slower(names) for _ in range(3)), "a busy machine may hide it once, not three times"


def test_every_round_begins_with_another_subject_and_the_first_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_MOST_ROUNDS", 3)
    called: list[str] = []
    calls = {name: [lambda name=name: called.append(name)] * 2 for name in "abc"}
    seconds = time_in_rounds({name: Timed(of_name, CPU) for name, of_name in calls.items()})
    assert "".join(called) == "abcabc" + "bcabca" + "cabcab" + "abcabc"
    assert [len(seconds[name]) for name in "abc"] == [3, 3, 3]
    assert all(0 < value < 1 for of_name in seconds.values() for value in of_name)


def test_rounds_end_early_where_they_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_ENOUGH_SECONDS", 0.0)
    assert len(time_in_rounds({"a": Timed([lambda: None], CPU)})["a"]) == 5
    assert time_in_rounds({}) == {}


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with with_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_times_have_quartiles_and_compare_with_the_reference() -> None:
    times = compare_times({"add": work(1), "concat": work(2)}, "add", 3, CPU)
    assert list(times.ratios) == ["add", "concat"]
    for spread in (times.reference, *times.ratios.values()):
        assert 0 < spread.low <= spread.median <= spread.high


def test_the_order_of_measurements_pairs_each_with_the_reference() -> None:
    called: list[str] = []
    runs = {name: (lambda name=name: called.append(name)) for name in ("add", "concat", "max")}
    compare_times(runs, "add", 2, CPU)
    order = [name for index, name in enumerate(called) if index == 0 or called[index - 1] != name]
    assert order == ["add", "concat", "add", "max"] * 2
