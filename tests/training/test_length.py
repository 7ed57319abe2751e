"""How long a run is; that Lightning takes as many steps is held in test_module.py."""

from __future__ import annotations

from typing import Any

import pytest

from detfuse.errors import InputError
from detfuse.training.length import Length, length_of

ENDLESS: dict[str, Any] = {"limit": 1.0, "accumulate": 1, "max_epochs": -1, "max_steps": -1}


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({"max_epochs": 3}, Length(epochs=3, passes=15, steps=15, batch=4)),
        ({"max_epochs": 3, "accumulate": 2}, Length(epochs=3, passes=15, steps=9, batch=8)),
        ({"max_steps": 3, "accumulate": 2}, Length(epochs=1, passes=5, steps=3, batch=8)),
        ({"max_steps": 4, "accumulate": 2}, Length(epochs=2, passes=7, steps=4, batch=8)),
        ({"max_epochs": 3, "max_steps": 6}, Length(epochs=2, passes=6, steps=6, batch=4)),
        ({"max_epochs": 2, "limit": 3}, Length(epochs=2, passes=6, steps=6, batch=4)),
        ({"max_epochs": 2, "limit": 0.5}, Length(epochs=2, passes=4, steps=4, batch=4)),
        ({"max_epochs": 2, "limit": 0}, Length(epochs=0, passes=0, steps=0, batch=4)),
    ],
)
def test_five_batches_an_epoch_for_two_processes(settings: dict[str, Any], length: Length) -> None:
    assert length_of(5, 4, **{**ENDLESS, **settings}) == length


def test_an_epoch_of_fewer_batches_than_are_accumulated_has_smaller_steps() -> None:
    assert length_of(2, 3, **{**ENDLESS, "accumulate": 4, "max_epochs": 2}).batch == 6


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match=r"trainer\.max_epochs or trainer\.max_steps"):
        length_of(5, 4, **ENDLESS)
