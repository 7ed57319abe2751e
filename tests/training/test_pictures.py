from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from quadrants import Fit, Quadrants, make_module  # type: ignore[import-not-found]  # pytest's path
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detfuse.training.loggers import tensorboard
from detfuse.training.pictures import Pictures


def test_training_batches_and_validation_predictions_are_drawn(fit: Fit, tmp_path: Path) -> None:
    fit(callbacks=[Pictures(train_batches=2, val_images=3)], loggers=[tensorboard(tmp_path)])
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"train_batch_0.jpg", "train_batch_1.jpg", "val_0.jpg", "val_10.jpg", "val_20.jpg"}
    for name in names:
        assert np.asarray(Image.open(tmp_path / "pictures" / name)).std() > 1
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("pictures/val_10")] == [4, 8]


def test_a_text_id_stays_within_the_folder_and_within_a_files_name(fit: Fit, tmp_path: Path) -> None:
    texts = {0: "../../over", 10: "x" * 300, 20: "x" * 301, 30: "帧 1"}
    data = Quadrants(num_images=4)
    module = make_module(data, image_id_of=lambda split, number: texts[number])
    module.evaluator = None
    before = {path.name for path in tmp_path.iterdir()}
    fit(data, module=module, callbacks=[Pictures(train_batches=0, val_images=4)], max_epochs=1)
    assert {path.name for path in tmp_path.iterdir()} <= {*before, "pictures"}
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"val_..%2F..%2Fover.jpg", "val_帧%201.jpg"} < names
    assert len(names) == 4


def test_none_are_drawn_where_none_are_wanted(fit: Fit, tmp_path: Path) -> None:
    fit(callbacks=[Pictures(train_batches=0, val_images=0)], max_epochs=1)
    assert not (tmp_path / "pictures").exists()
