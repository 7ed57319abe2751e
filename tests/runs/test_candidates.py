"""The file of candidates: what goes in comes out, and what belongs to something else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detfuse.errors import UserError
from detfuse.ops.postprocess import Nms, WeightedBoxFusion
from detfuse.runs.candidates import Candidates, key_of, read_candidates, uncombined, write_candidates
from detfuse.structures import Detections

CONFIG: dict[str, Any] = {
    "neck": {"_target_": "x", "out_channels": 8},
    "combine": {"_target_": "y"},
    "trainer": {"precision": "32-true", "devices": 1},
}


def image(seed: int, count: int = 60) -> tuple[torch.Tensor, ...]:
    """Candidates with padding; all of the coarsest level are padding."""
    generator = torch.Generator().manual_seed(seed)
    corners = 30 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat([corners, corners + 10 + 10 * torch.rand(count, 2, generator=generator)], 1)
    levels = torch.randint(4, (count,), generator=generator)
    scores = torch.rand(count, generator=generator).masked_fill_(levels == 3, 0)
    scores[::4] = 0
    return boxes, scores, torch.randint(2, (count,), generator=generator), levels


def kept(*images: Detections) -> Candidates:
    scales = torch.tensor([[0.5, 0.25]]).expand(len(images), 2)
    sizes = torch.tensor([[90, 150]]).expand(len(images), 2)
    counts = torch.tensor([len(one.scores) for one in images])
    rows = Detections(*map(torch.cat, zip(*images, strict=True)))
    return Candidates(torch.arange(7, 7 + len(images)), scales, sizes, counts, rows)


@pytest.mark.parametrize("combine", [Nms(), WeightedBoxFusion(score_scaling="members")])
def test_what_was_kept_is_combined_as_what_was_predicted(combine: Any, tmp_path: Path) -> None:
    candidates = kept(*(uncombined(*image(seed)) for seed in (0, 1)))
    assert candidates.counts.sum() < 100, "padding is not kept"
    key = {"checkpoint": "a", "settings": "b", "images": "c"}
    write_candidates(tmp_path / "c.pt", candidates, key)
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]
    found = read_candidates(tmp_path / "c.pt", key).combined(combine, torch.device("cpu"))
    for number, seed in ((7, 0), (8, 1)):
        expected = combine(*image(seed)).to_original(candidates.scales[0], candidates.original_sizes[0])
        assert all(torch.equal(a, b) for a, b in zip(found[number], expected, strict=True))


def test_candidates_belong_to_a_checkpoint_its_settings_and_its_images(tmp_path: Path) -> None:
    checkpoint, other = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    checkpoint.write_text("a")
    other.write_text("b")
    key = key_of(checkpoint, CONFIG, [1, 2])
    write_candidates(tmp_path / "c.pt", kept(uncombined(*image(0))), key)
    same = {
        **CONFIG,
        "combine": {"_target_": "z"},
        "optimizer": {"lr": 1},
        "trainer": {**CONFIG["trainer"], "devices": 2},
    }
    assert key_of(checkpoint, same, [1, 2]) == key
    for given, told in (
        ((other, CONFIG, [1, 2]), "another checkpoint"),
        ((checkpoint, {**CONFIG, "neck": {"_target_": "x", "out_channels": 9}}, [1, 2]), "other settings"),
        ((checkpoint, CONFIG, [1, "2"]), "other images"),
        ((other, CONFIG, [1]), "another checkpoint and other images"),
    ):
        with pytest.raises(UserError, match=f"c.pt: its candidates are of {told}; name another file"):
            read_candidates(tmp_path / "c.pt", key_of(*given))  # type: ignore[arg-type]  # ids may be text
    torch.save({"key": {}}, tmp_path / "d.pt")
    with pytest.raises(UserError, match=r"d\.pt: holds no candidates"):
        read_candidates(tmp_path / "d.pt", key)
