"""What a configured argument may be is said once, in the signature; the defaults keep to it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from omegaconf import OmegaConf

from detfuse.cli import COMMANDS
from detfuse.config import conf_dir
from detfuse.config.schema.signatures import signature_of
from detfuse.config.vouched import marked
from detfuse.ranges import Range, allows

TARGETS = sorted(
    {
        marks["_target_"]
        for file in conf_dir().rglob("*.yaml")
        for _, marks in marked(OmegaConf.to_container(OmegaConf.load(file), resolve=False))
        if "_target_" in marks
    }
    | {f"{kind.__module__}.{kind.__qualname__}" for kind in (command.settings for command in COMMANDS.values())}
)


def _part(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def _hints(part: Any) -> dict[str, Any]:
    return get_type_hints(part.__init__ if isinstance(part, type) else part, include_extras=True)


def _bare_numbers(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Annotated and any(isinstance(each, Range) for each in get_args(hint)[1:]):
        return
    if hint in (int, float):
        yield hint
    for inner in get_args(hint):
        yield from _bare_numbers(inner)


@pytest.mark.parametrize("target", TARGETS)
def test_every_number_has_a_range_and_every_default_lies_in_it(target: str) -> None:
    part, signature = _part(target), signature_of(target)
    assert signature is not None
    hints = _hints(part)
    bare = [name for name in signature.configured if list(_bare_numbers(hints[name]))]
    assert not bare, f"{target}: give {', '.join(bare)} a range (detfuse.ranges)"
    for name, parameter in inspect.signature(part).parameters.items():
        if name in signature.configured and parameter.default is not inspect.Parameter.empty:
            assert allows(hints[name], parameter.default), name
    if any("Range" in repr(hints[name]) for name in signature.configured):
        assert hasattr(part.__init__ if isinstance(part, type) else part, "__wrapped__"), f"{target} is not @checked"
