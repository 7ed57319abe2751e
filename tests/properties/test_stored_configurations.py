"""A run's configuration after any edit: it is one that could have been typed, or it is refused with its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import as_bytes, changed
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_annotation_files import assert_told

from detfuse.config import TrainSettings, as_stored, conf_dir, resolve
from detfuse.config.schema.keys import HYDRA_KEYS
from detfuse.config.vouched import marked
from detfuse.errors import InputError
from detfuse.files.plain import read_mapping

STORED = resolve(["callbacks=ema", "attention@attention.lateral=se"], TrainSettings).config
_TARGETS = {marks["_target_"] for _, marks in marked(STORED) if "_target_" in marks}


@st.composite
def _files(draw: st.DrawFn) -> bytes:
    part = draw(st.sampled_from(sorted(STORED)))  # so that small nodes are changed as often as large ones
    content: dict[str, Any] = draw(changed({part: STORED[part]}, most=2))
    return draw(as_bytes(yaml.safe_dump({**STORED, **content}, sort_keys=False, allow_unicode=True)))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stored") / "config.yaml"


@settings(max_examples=settings.default.max_examples // 2)
@given(_files())
@example(yaml.safe_dump({**STORED, "resample": [1]}).encode())
def test_whatever_a_stored_configuration_holds(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        config = as_stored(read_mapping(file), file, [conf_dir()])
    except InputError as error:
        assert_told(str(error), "config.yaml")
        return
    for _, marks in marked(config):
        assert set(marks) <= HYDRA_KEYS
        assert marks.get("_target_") in _TARGETS
    assert config["seed"] in range(2**32)
