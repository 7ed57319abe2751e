"""Fixtures that every room's tests may use."""

from __future__ import annotations

import gc
import json
import lzma
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor
from torch._dynamo import config as tracing

from detfuse.ablation.plan import prepared
from detfuse.config import Resolved, check, resolve
from detfuse.config.settings import Settings

# the workers of a test run share the cores; more threads in each only wait for one another
torch.set_num_threads(1)
if not torch.cuda.is_available():
    # torch asks for GPUs at every operator that it traces, and each time looks for a driver unless it is told of none
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """What is imported by now stays: no collection of garbage looks through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def reference() -> Callable[[str], dict[str, Tensor]]:
    """Case -> what another implementation computed, by the keys that ``tests/fixtures/README.md`` explains."""
    folder = REPOSITORY / "tests" / "fixtures" / "parity"
    index = json.loads((folder / "index.json").read_text())

    @cache
    def unpacked(file: str) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = load(lzma.decompress((folder / file).read_bytes()))
        return tensors

    def read(case: str) -> dict[str, Tensor]:
        of_case = {key: tensor for key, tensor in unpacked(index[case]["file"]).items() if key.startswith(f"{case}/")}
        return {key.removeprefix(f"{case}/"): tensor.clone() for key, tensor in of_case.items()}

    return read


@cache
def _checked(arguments: tuple[str, ...], settings: type[Settings]) -> list[str]:
    return check(list(arguments), settings)


@cache
def _resolved(arguments: tuple[str, ...], settings: type[Settings]) -> Resolved:
    return resolve(list(arguments), settings)


@pytest.fixture
def composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans whose arms are checked and resolved once in all tests of a process: each takes half a second."""
    monkeypatch.setattr(prepared, "check", lambda argv, settings: list(_checked(tuple(argv), settings)))
    monkeypatch.setattr(prepared, "resolve", lambda argv, settings: deepcopy(_resolved(tuple(argv), settings)))


@pytest.fixture
def traced_anew() -> Iterator[None]:
    """Compiles and exports without what torch's tracer keeps of every operator: with free sizes that costs more."""
    with tracing.patch(fake_tensor_cache_enabled=False):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Photographs and broken files that lie beside the repository; without them the test is skipped, visibly."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "bad_inputs").is_dir():
        pytest.skip(f"needs the photographs and broken files in {folder.parent.name}/shared, which are not here")
    return folder
