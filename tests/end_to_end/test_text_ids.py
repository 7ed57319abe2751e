"""A data set whose images have texts as ids, from its file to the verdict: nobody ever sees another id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import OF_THE_DETECTOR, TrainedHere, here

from detfuse.cli import ablation_run
from detfuse.data.generators import Shapes, generate

DATA = Shapes(num_train=112, num_val=8, image_size=64, min_size=30.0, max_size=56.0, max_objects=2, data_seed=0)
LEARNS = ("optimizer.lr=0.01", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=2")
PAGE = "_target_: detfuse.ablation.design.Ablation\nfactors: {neck: [unfused, fpn]}\n"
FOLDER = Path("runs/ablations/mine")


def name_of(number: int) -> str:
    """Texts in another order than the numbers were in."""
    return f"{100 - number:04}"


def with_text_ids(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    for kind, key in (("images", "id"), ("annotations", "image_id")):
        for record in content[kind]:
            record[key] = name_of(record[key])
    file.write_text(json.dumps(content))
    return content


def test_predictions_comparison_and_verdict_speak_the_files_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation_run, "LocalLauncher", TrainedHere)
    root = generate(tmp_path / "data", DATA)
    files = {split: next(root.rglob(f"instances_{split}.json")) for split in ("train", "val")}
    known = {split: {image["id"] for image in with_text_ids(file)["images"]} for split, file in files.items()}
    (tmp_path / "my/ablation").mkdir(parents=True)
    (tmp_path / "my/ablation/mine.yaml").write_text(PAGE)
    small = (*OF_THE_DETECTOR, "data.loader.num_workers=0", "data.transform.short_side=64")
    options = ("data=coco", f"data.root={root}", *small, *LEARNS, "callbacks.pictures=null")
    printed = here("ablate", "--config-dir", "my", "ablation=mine", *options, "seeds=[0]", folder=tmp_path)
    assert f"report: {FOLDER / 'report/report.html'}" in printed

    of_a, of_b = (FOLDER / "runs" / arm / "seed-0" for arm in ("unfused", "fpn"))
    found = {row["image_id"] for row in json.loads((tmp_path / of_a / "predictions.json").read_text())}
    assert found
    assert found <= known["val"]
    files_of = [f"{side}={folder / 'predictions.json'}" for side, folder in (("a", of_a), ("b", of_b))]
    here("compare", *files_of, f"annotations={files['val']}", "output=compared", folder=tmp_path)
    scores = json.loads((tmp_path / "compared/comparison.json").read_text())["scores"]
    for arm, folder in (("a", of_a), ("b", of_b)):
        stats = json.loads((tmp_path / folder / "metrics.json").read_text())["stats"]
        (mean,) = (score["mean"] for score in scores if (score["arm"], score["metric"]) == (arm, "mAP"))
        assert mean == stats["mAP"]
