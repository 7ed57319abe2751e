"""Fixtures that every room's tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

# the workers of a test run share the cores; more threads in each only wait for one another
torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and reference fixtures that lie beside the repository; without them the test is skipped, visibly."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "parity" / "ref_fixtures").is_dir():
        pytest.skip(f"needs the shared fixtures in {folder.parent.name}/shared, which are not here")
    return folder
