"""What is timed of an arm: its trained weights, on the images that validation sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts.composing import compose_train
from PIL import Image
from torch import Tensor

from detfuse.ablation.plan.budget import cost_of
from detfuse.ablation.plan.prepared import Prepared
from detfuse.ablation.records import Arm, DetectorCost, Plan, Run
from detfuse.ablation.report import costs
from detfuse.ablation.report.costs import write_costs
from detfuse.ablation.storage import read_cost, write_cost
from detfuse.build import build_data, build_detector
from detfuse.config.resolve import Resolved
from detfuse.data import AnnotationIndex
from detfuse.detector import Detector
from detfuse.inspect import timing
from detfuse.ops.postprocess import Nms
from detfuse.structures import Detections

SIZES = [(64, 48), (96, 64), (40, 64), (64, 64), (96, 96)]  # width, height
SMALL = ("neck.out_channels=16", "head.num_convs=1", "data.transform.short_side=64", "data.transform.long_side=null")


class Recording(Nms):
    """Counts the candidates that it is to combine."""

    counts: list[int] = []  # noqa: RUF012  of all that are made

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, levels: Tensor) -> Detections:
        self.counts.append(int((scores > 0).sum()))
        return super().__call__(boxes, scores, labels, levels)


@dataclass
class Laboratory:
    """Two arms with trained weights, one of which finds candidates everywhere and one nowhere; and what was timed."""

    folder: Path
    prepared: Prepared
    index: AnnotationIndex
    runs: list[Run] = field(default_factory=list)
    timed: list[tuple[int, Tensor]] = field(default_factory=list)

    def train(self, arm: str, bias: float, seed: int = 0) -> Path:
        """A finished run with its last checkpoint."""
        config = self.prepared.resolved[arm].config
        run = Run(arm, seed, self.folder / arm / f"seed-{seed}", "finished")
        detector = build_detector(config, len(self.index.categories))
        torch.nn.init.constant_(detector.head.cls_logits.bias, bias)  # type: ignore[attr-defined]  # FCOS has it
        own = {"version": "0.1.0", "config": config, "categories": self.index.categories.as_dict(), "ema": None}
        state = {f"detector.{name}": value for name, value in detector.state_dict().items()}
        path = run.folder / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"epoch": 0, "state_dict": state, "detfuse": own}, path)
        self.runs = [*(one for one in self.runs if one.folder != run.folder), run]
        return path

    def costs(self) -> list[str]:
        """Write them; forget what was timed before."""
        self.timed.clear()
        Recording.counts.clear()
        return write_costs(self.prepared, self.runs, self.index)


_COUNTED: dict[str, DetectorCost] = {}


def counted(config: dict[str, Any], num_classes: int, image_size: tuple[int, int]) -> DetectorCost:
    """As ``cost_of``; each once for all tests, since it takes longer than all the rest."""
    key = f"{config['data']['transform']} {image_size}"
    if key not in _COUNTED:
        _COUNTED[key] = cost_of(config, num_classes, image_size)
    return _COUNTED[key]


@pytest.fixture
def laboratory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    images = []
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for number, (width, height) in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(100, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "val2017" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
    boxes = [
        {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
        for i in range(len(SIZES))
    ]
    truth = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(truth))
    config = compose_train("data=coco", f"data.root={tmp_path}", "trainer.accelerator=cpu", *SMALL)
    config["combine"]["_target_"] = f"{__name__}.Recording"
    (tmp_path / "my" / "combine").mkdir(parents=True)
    (tmp_path / "my" / "combine" / "recording.yaml").write_text(json.dumps(config["combine"]))  # JSON is YAML
    data = build_data(config, 32)
    data.setup("validate")
    plan = Plan("x", (Arm("many", {}, ()), Arm("none", {}, ())), (0, 1), (), threads=1)
    resolved = {arm.name: Resolved(config, {}) for arm in plan.arms}
    made = Laboratory(
        tmp_path / "runs", Prepared(plan, resolved, ("--config-dir", str(tmp_path / "my"))), data.indexes["val"]
    )
    made.train("many", 3.0)
    made.train("none", -30.0)
    predict: Callable[..., list[Detections]] = Detector.predict

    def watched(self: Detector, images: Tensor, sizes: Tensor, combine: Any) -> list[Detections]:
        assert not self.training
        made.timed.append((id(self), images))
        return predict(self, images, sizes, combine)

    monkeypatch.setattr(Detector, "predict", watched)
    monkeypatch.setattr(timing, "_MOST_ROUNDS", 3)
    monkeypatch.setattr(costs, "cost_of", counted)
    return made


def test_trained_weights_are_timed_on_images_as_validation_prepares_them(laboratory: Laboratory) -> None:
    assert laboratory.costs() == []
    many, none = (read_cost(run.folder) for run in laboratory.runs)
    for cost in (many, none):
        assert cost.latency_ms is not None
        assert cost.latency_low is not None
        assert cost.latency_high is not None
        assert 0 < cost.latency_low <= cost.latency_ms <= cost.latency_high
        assert cost.timing is not None
        assert (cost.timing.seed, cost.timing.device, cost.timing.threads) == (0, "cpu", 1)
        assert (cost.timing.precision, cost.timing.rounds) == ("32-true", 3)
        assert cost.timing.num_images == len(SIZES)
        assert cost.timing.image_sizes == ((64, 64), (64, 96), (128, 64))
        assert cost.image_size == (128, 64)  # the largest, to which FLOPs refer
    rounds = [laboratory.timed[start : start + 10] for start in range(0, len(laboratory.timed), 10)]
    assert len(rounds) == 1 + 3
    first, second = dict.fromkeys(detector for detector, _ in laboratory.timed)
    # Image by image each arm in its turn, and another one begins the next round.
    assert [detector for detector, _ in rounds[0]] == [first, second] * 5
    assert [detector for detector, _ in rounds[1]] == [second, first] * 5
    for _, images in laboratory.timed:
        assert images.shape[0] == 1
        assert images.float().mean() > 50
    assert {tuple(images.shape[2:]) for _, images in laboratory.timed} == {(64, 64), (64, 96), (128, 64)}
    # What suppression has to do is what the weights leave it.
    counts = dict(zip([detector for detector, _ in laboratory.timed], Recording.counts, strict=True))
    assert counts[first] > 50
    assert counts[second] == 0


def test_what_was_timed_is_timed_again_only_if_a_checkpoint_is_another_one(laboratory: Laboratory) -> None:
    laboratory.costs()
    before = [read_cost(run.folder) for run in laboratory.runs]
    laboratory.costs()
    assert laboratory.timed == []
    later = laboratory.train("many", 1.0, seed=1)
    laboratory.costs()
    assert laboratory.timed == []  # the first seed's is what is timed
    assert read_cost(later.parent.parent) == before[0]
    path = laboratory.train("many", 2.0)
    laboratory.costs()
    assert len({detector for detector, _ in laboratory.timed}) == 2  # all arms, since a machine changes
    now = read_cost(path.parent.parent)
    assert now.timing != before[0].timing
    assert read_cost(later.parent.parent) == now
    for run in laboratory.runs:
        (run.folder / "checkpoints" / "last.ckpt").unlink()
    measured = read_cost(laboratory.runs[0].folder)
    assert laboratory.costs() == []
    assert laboratory.timed == []
    assert read_cost(laboratory.runs[0].folder) == measured


def test_an_arm_that_cannot_be_timed_is_told_and_costs_no_other(laboratory: Laboratory) -> None:
    laboratory.train("none", 0.0).write_bytes(b"no checkpoint")
    (told,) = laboratory.costs()
    assert told.startswith("latency of none not measured: ")
    assert "last.ckpt" in told
    by_arm = {run.arm: read_cost(run.folder) for run in laboratory.runs}
    assert by_arm["many"].latency_ms is not None
    assert by_arm["none"].latency_ms is None
    assert by_arm["none"].flops == by_arm["many"].flops
    (laboratory.folder / "none" / "seed-0" / "checkpoints" / "last.ckpt").unlink()
    assert laboratory.costs() == [told]


def test_the_first_seed_that_has_its_checkpoint_is_timed(laboratory: Laboratory) -> None:
    laboratory.train("none", 1.0, seed=1)
    (laboratory.folder / "none" / "seed-0" / "checkpoints" / "last.ckpt").unlink()
    assert laboratory.costs() == []
    timing = read_cost(laboratory.folder / "none" / "seed-0").timing
    assert timing is not None
    assert timing.seed == 1


def test_a_latency_of_an_older_version_is_measured_again(laboratory: Laboratory) -> None:
    laboratory.costs()
    for run in laboratory.runs:
        old = read_cost(run.folder)
        write_cost(run.folder, replace(old, latency_ms=1e9, latency_low=None, latency_high=None, timing=None))
    laboratory.costs()
    assert all((read_cost(run.folder).latency_ms or 1e9) < 1e9 for run in laboratory.runs)
    for run in laboratory.runs:
        write_cost(run.folder, replace(read_cost(run.folder), latency_ms=1e9, timing=None))
        (run.folder / "checkpoints" / "last.ckpt").unlink()
    assert laboratory.costs() == [
        f"latency of {arm} not measured: no finished run has its last checkpoint any more" for arm in ("many", "none")
    ]


def test_an_arm_is_timed_in_its_own_precision_and_size(laboratory: Laboratory) -> None:
    other = compose_train("data=coco", f"data.root={laboratory.index.root.parent}", "trainer.accelerator=cpu", *SMALL)
    other["trainer"]["precision"] = "bf16-mixed"
    other["data"]["transform"]["short_side"] = 96
    resolved = {**laboratory.prepared.resolved, "none": Resolved(other, {})}
    laboratory.prepared = replace(laboratory.prepared, resolved=resolved)
    laboratory.train("none", -5.0)
    laboratory.costs()
    many, none = (read_cost(run.folder) for run in laboratory.runs)
    assert many.timing is not None
    assert none.timing is not None
    assert (many.timing.precision, none.timing.precision) == ("32-true", "bf16-mixed")
    assert none.image_size > many.image_size
    assert none.flops > 1.5 * many.flops
    assert (many.timing.image_sizes[0], none.timing.image_sizes[0]) == ((64, 64), (96, 96))
