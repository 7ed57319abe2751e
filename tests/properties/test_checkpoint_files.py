"""Checkpoints whose content was changed in any way: read as they stand, or refused with the file's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hostile
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_annotation_files import assert_told

from detfuse.config import TrainSettings, conf_dir, resolve
from detfuse.errors import UserError
from detfuse.files.run_files import LAST
from detfuse.ops.postprocess import Nms
from detfuse.runs.candidates import Candidates, read_candidates, write_candidates
from detfuse.runs.resumption import resumption
from detfuse.structures import Detections

_TENSORS = st.sampled_from(
    [
        *(torch.zeros(2), torch.zeros(0), torch.tensor(float("nan")), torch.zeros(2, dtype=torch.int64)),
        *(torch.zeros(1).expand(5), torch.ones(2, 3, dtype=torch.bool), 1 + 2j, b"bytes", (1, 2)),
    ]
)
_CHECKPOINT: dict[str, Any] = {
    "epoch": 1,
    "global_step": 6,
    "state_dict": {"detector.a.weight": torch.zeros(2, 3), "detector.a.bias": torch.zeros(2)},
    "loops": {
        "fit_loop": {
            "epoch_progress": {"current": {"started": 2, "processed": 1}},
            "epoch_loop.batch_progress": {"current": {"processed": 2}},
        }
    },
    "callbacks": {},
    "optimizer_states": [],
    "lr_schedulers": [],
    "LightningData": {"processes": 1, "train": "abc", "val": "def"},
    "detfuse": {
        "version": "0.1.0",
        "config": resolve([], TrainSettings).config,
        "categories": {"ids": [1, 7], "names": ["cat", "dog"]},
        "ema": {"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2)},
    },
}
_PART = st.sampled_from([*_CHECKPOINT, "detfuse", "loops"])


@st.composite
def _checkpoints(draw: st.DrawFn) -> dict[str, Any]:
    part = draw(_PART)
    # the configuration has a test of its own
    changed: dict[str, Any] = draw(hostile.changed({part: _CHECKPOINT[part]}, values=_TENSORS))
    return {**{key: value for key, value in _CHECKPOINT.items() if key != part}, **changed}


@settings(max_examples=settings.default.max_examples // 2)
@given(_checkpoints())
@pytest.mark.filterwarnings("ignore:.*newer than this one")
def test_whatever_the_last_checkpoint_of_a_run_holds(tmp_path_factory: Any, content: dict[str, Any]) -> None:
    folder = tmp_path_factory.getbasetemp() / "resumed"
    (folder / LAST).parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / LAST)
    try:
        found = resumption(folder, [conf_dir()])
        found.require_processes(1)
    except UserError as error:
        assert_told(str(error), "last.ckpt")
        return
    assert min(found.epochs, found.seen, found.step) >= 0
    assert str(found)
    assert all(value.isfinite().all() for weights in found.weights for value in weights.detector_state.values())


_KEY = {"checkpoint": "a", "settings": "b", "images": "c"}
_ROWS = Detections(torch.tensor([[0.0, 0, 4, 4], [2, 2, 9, 9]]), torch.tensor([0.5, 0.25]), *torch.zeros(2, 2).long())
_CANDIDATES = Candidates(torch.arange(2), torch.ones(2, 2), torch.full((2, 2), 9), torch.tensor([1, 1]), _ROWS)


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("candidates") / "candidates.pt"
    write_candidates(file, _CANDIDATES, _KEY)
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


@given(st.data())
def test_whatever_a_file_of_candidates_holds(tmp_path_factory: Any, candidates: Any, data: st.DataObject) -> None:
    file: Path = tmp_path_factory.getbasetemp() / "candidates.pt"
    torch.save(data.draw(hostile.changed(candidates, values=_TENSORS)), file)
    try:
        found = read_candidates(file, _KEY).combined(Nms(), torch.device("cpu"))
    except UserError as error:
        assert_told(str(error), "candidates.pt")
        return
    assert all(len(one.boxes) == len(one.scores) for one in found.values())
