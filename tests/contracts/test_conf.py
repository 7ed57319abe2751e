"""Every YAML names a part of detfuse and lists all that can be configured of it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from detfuse.config import conf_dir

FILES = sorted(conf_dir().rglob("*.yaml"))
OF_HYDRA = {"_target_", "_partial_", "defaults"}


def nodes(content: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a ``_target_``, at any depth."""
    if isinstance(content, dict):
        if "_target_" in content:
            yield content
        for value in content.values():
            yield from nodes(value)


def content_of(file: Path) -> Any:
    """A file merged over those of its own group that it names in its defaults."""
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    if not isinstance(content, dict):
        return content
    for parent in content.get("defaults", []):
        if isinstance(parent, str) and (file.parent / f"{parent}.yaml").is_file():
            content = {**content_of(file.parent / f"{parent}.yaml"), **content}
    return content


def callable_of(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(conf_dir())) for file in FILES])
def test_lists_every_configured_argument(file: Path) -> None:
    for node in nodes(content_of(file)):
        target = node["_target_"]
        assert target.startswith("detfuse."), "a part of another library hides its signature from the check"
        parameters = inspect.signature(callable_of(target)).parameters.values()
        configured = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert set(node) - OF_HYDRA == configured, f"{target}: the YAML and the signature differ"


def test_there_is_a_yaml_for_every_shipped_choice() -> None:
    from detfuse.fusion.operators import OPERATORS
    from detfuse.fusion.resample import DOWN, UP

    options = {
        folder.name: {f.stem for f in folder.glob("*.yaml")} for folder in conf_dir().iterdir() if folder.is_dir()
    }
    assert options["operator"] == set(OPERATORS)
    assert options["resample"] == (set(UP) | set(DOWN)) - {"subsample"}  # P6's form, pinned by the topologies
    assert {"unfused", "early", "early_pyramid", "fpn", "unet", "pafpn", "bifpn"} <= options["neck"]
