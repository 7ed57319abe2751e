"""An ablation that was made up, and its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_ablation import FakeAblation, make_ablation
from written import EVIL, Page

from detfuse.ablation.report import write_report


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeAblation:
    return make_ablation(tmp_path_factory.mktemp("ablation"), rename={9: EVIL})


@pytest.fixture(scope="session")
def folder(fake: FakeAblation) -> Path:
    path = write_report(*fake.arguments)
    assert path == fake.folder / "report" / "report.html"
    return path.parent


@pytest.fixture(scope="session")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def again(fake: FakeAblation, tmp_path: Path) -> Callable[..., Path]:
    """Writes another report, with some arguments changed; returns its folder."""

    def write(**changes: Any) -> Path:
        return write_report(*replace(fake, folder=tmp_path, **changes).arguments).parent

    return write
