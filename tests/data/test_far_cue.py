"""The generated discs whose class a distant lamp tells: nothing near them does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detfuse.data import FarCueDataModule, Loader, Transforms
from detfuse.data.generators import FarCue, generate
from detfuse.data.generators.far_cue import gap
from detfuse.evaluation.replicates import ReplicateEvaluator

SMALL = FarCue(
    num_train=6,
    num_val=3,
    image_size=64,
    min_size=8,
    max_size=12,
    max_objects=4,
    lamp_size=16,
    distance=24,
    data_seed=0,
)


def test_the_files_are_grey_but_for_the_lamp_which_is_far_from_every_disc(tmp_path: Path) -> None:
    parts = {"transform": Transforms(short_side=64), "loader": Loader()}
    data = FarCueDataModule(16, 0, root=str(tmp_path), num_train=30, num_val=3, **parts)
    data.prepare_data()
    data.setup("fit")
    truth = data.ground_truth("train")
    assert data.categories.names == ("red", "blue")
    assert (truth.counts > 0).all()
    lit: list[str] = []
    ends = np.cumsum(truth.counts)
    for number, path in enumerate(sorted((data.folder / "images/train").iterdir())):
        pixels = np.asarray(Image.open(path)).astype(int)
        rows, columns = np.nonzero(np.ptp(pixels, axis=2))
        assert np.ptp(rows) <= 16
        assert np.ptp(columns) <= 16
        lamp = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        mine = slice(ends[number] - truth.counts[number], ends[number])
        for box in truth.boxes[mine].tolist():
            assert gap(box, lamp) >= 24 - 1e-6
        middle = pixels[int(rows.mean()), int(columns.mean())]
        lit.append(("red", "green", "blue")[middle.argmax()])
        assert {data.categories.names[label] for label in truth.labels[mine]} == {lit[-1]}
    assert Counter(lit) == {"red": 15, "blue": 15}


def test_all_but_the_lamp_is_the_same_whatever_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image drawn again with another lamp differs in the lamp's pixels and in the class alone."""
    drawn = SMALL.draw("train", 0)
    monkeypatch.setattr("detfuse.data.generators.far_cue.LAMPS", {2: "blue"})
    again = SMALL.draw("train", 0)
    assert [r["bbox"] for r in again.records] == [r["bbox"] for r in drawn.records]
    assert {r["category_id"] for r in drawn.records + again.records} == {1, 2}
    rows, columns = np.nonzero((again.pixels != drawn.pixels).any(axis=2))
    assert 0 < np.ptp(rows) <= 16
    assert 0 < np.ptp(columns) <= 16


def test_whoever_finds_every_disc_and_guesses_its_class_has_an_ap_of_a_half() -> None:
    images = [replace(SMALL, num_val=200).draw("val", number) for number in range(200)]
    boxes = [(i, record) for i, canvas in enumerate(images) for record in canvas.records]
    truth = {
        "images": [{"id": i} for i in range(len(images))],
        "categories": [{"id": category, "name": name} for category, name in SMALL.categories.items()],
        "annotations": [{"id": n, "image_id": i, **record} for n, (i, record) in enumerate(boxes)],
    }
    guess = np.random.default_rng(0)

    def ap(rows: list[dict[str, Any]]) -> float:
        return float(ReplicateEvaluator(truth).match(rows).evaluate(np.ones((1, len(images))))[0, 0])

    told = [
        {"image_id": i, "category_id": category, "bbox": record["bbox"], "score": float(guess.random())}
        for i, record in boxes
        for category in SMALL.categories
    ]
    right = [{"image_id": i, "score": 0.5, **record} for i, record in boxes]
    assert ap(told) == pytest.approx(1 / 2, abs=0.05)
    assert ap(right) == pytest.approx(1.0)


def test_the_discs_stay_as_they_were_drawn(tmp_path: Path) -> None:
    """Runs are compared over months: what is drawn must not change under the same name."""
    folder = generate(tmp_path, SMALL)
    assert folder.name == "far-cue-36ef3eacd6"
    annotations = (folder / "annotations/instances_train.json").read_bytes()
    assert sha256(annotations).hexdigest()[:16] == "162380485570fdb8"
    pixels = SMALL.draw("val", 2).pixels.round().astype(np.uint8)
    assert sha256(pixels.tobytes()).hexdigest()[:16] == "57ffda58d8364890"


@pytest.mark.parametrize("wrong", [{"min_size": 13}, {"distance": 32}, {"distance": -1}, {"max_objects": 0}])
def test_parameters_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|expected"):
        replace(SMALL, **wrong)
