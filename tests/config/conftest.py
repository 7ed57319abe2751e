from __future__ import annotations

from pathlib import Path

import pytest
from yaml_files import write_yaml

_PARTS = """
from dataclasses import dataclass
from typing import Any, Literal
from collections.abc import Callable, Sequence

raise RuntimeError("the check must not import what it checks")

Norm = Literal["train", "frozen"]
Topology = Callable[[int], Any]

@dataclass(frozen=True, kw_only=True)
class Transforms:
    short_side: int = 100
    flip: float = 0.5

class Data:
    def __init__(self, size_divisor: int, seed: int, *, root: str, limit: int | None = None, transform: Transforms): ...

class Folder:
    def __init__(self, size_divisor: int, seed: int, *, root: str | None = None, val_annotations: str | None = None,
                 limit: int | None = None, transform: Transforms): ...

class Backbone:
    def __init__(self, *, name: str, levels: Sequence[int] = (3, 4, 5), norm: Norm = "train"): ...

class GraphNeck:
    def __init__(self, in_spec, operator: Callable, resample_up, resample_down, *, topology: Topology | None = None,
                 nodes: list[dict[str, Any]] | None = None, out_channels: int = 8): ...

class Pool:
    def __init__(self, in_spec, *, out_channels: int = 8): ...

def fpn(levels, *, extra_levels: int = 2): ...
def pafpn(levels, *, extra_levels: int = 2): ...
def add(in_channels, out_channels): ...
def complexes(in_channels, out_channels, *, readout: Literal["modulus", "conv"] = "modulus"): ...
def resample(in_channels, out_channels, steps, *, sharp: bool = False): ...

def trainer(run_dir, callbacks, *, max_epochs: int = 2, devices: int | str = 1, limit: int | float = 1.0): ...
"""

_NECK = """
    defaults:
      - /operator@_global_.operator: add
      - /resample@_global_.resample.up: nearest
      - /resample@_global_.resample.down: nearest
      - _self_
    _target_: tiny.parts.GraphNeck
    topology: {_target_: tiny.parts.NAME, _partial_: true, extra_levels: 2}
    nodes: null
    out_channels: 8
"""

_CONF = {
    "base": """
        # @package _global_
        defaults: [{data: generated}, {backbone: small}, {neck: fpn}, {trainer: default}, _self_]
    """,
    "train": """
        defaults: [base, {experiment: none}, _self_]
        seed: 0
        project: default
        name: auto
        runs_dir: runs
        overwrite: false
        resume: false
    """,
    "evaluate": """
        defaults: [base, _self_]
        checkpoint: ???
        output: null
    """,
    "experiment/none": "# @package _global_",
    "experiment/wrong": """
        # @package _global_
        defaults: [override /neck: pafpn, override /operator: complex]
        operator: {readout: angle}
        trainer: {max_epochs: many}
    """,
    "data/generated": "{_target_: tiny.parts.Data, root: ., limit: null, "
    "transform: {_target_: tiny.parts.Transforms, short_side: 100, flip: 0.5}}",
    "data/folder": "{_target_: tiny.parts.Folder, root: '???', limit: null, val_annotations: null, "
    "transform: {_target_: tiny.parts.Transforms, short_side: 100, flip: 0.5}}",
    "backbone/small": "{_target_: tiny.parts.Backbone, name: resnet, levels: [3, 4, 5], norm: train}",
    "neck/fpn": _NECK.replace("NAME", "fpn"),
    "neck/pafpn": _NECK.replace("NAME", "pafpn"),
    "operator/add": "{_target_: tiny.parts.add}",
    "operator/complex": "{_target_: tiny.parts.complexes, readout: modulus}",
    "resample/nearest": "{_target_: tiny.parts.resample, sharp: false}",
    "resample/bilinear": "{_target_: tiny.parts.resample, sharp: false}",
    "trainer/default": "{_target_: tiny.parts.trainer, max_epochs: 2, devices: 1, limit: 1.0}",
}


@pytest.fixture
def tiny_conf(tmp_path: Path) -> Path:
    """A configuration of a few parts, whose targets crash when they are imported."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "parts.py").write_text(_PARTS)
    return write_yaml(tmp_path / "conf", _CONF)
