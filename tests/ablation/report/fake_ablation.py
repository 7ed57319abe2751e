"""An ablation's folder as a real one leaves it, made up: four arms x three seeds, of which one run is missing.

The pictures are generated ones, predictions are their ground truth with noise that depends on the arm, and the scores
are really those of the predictions. Only the standard errors over images are invented.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detfuse.ablation.records import Arm, DetectorCost, Plan, Run, Timing
from detfuse.ablation.storage import write_comparison, write_cost, write_plan, write_run
from detfuse.annotations import Annotations
from detfuse.attention.inserts import Place
from detfuse.data.generators import Shapes, generate
from detfuse.evaluation import CocoEvaluator, annotations_of
from detfuse.files.records import to_plain
from detfuse.files.text import write_json, write_text
from detfuse.necks.topologies import bifpn, fpn, pafpn, unfused
from detfuse.statistics.records import Comparison, Difference, Score, Verdict
from detfuse.visualize.graph import Fusion

ARMS = ("fpn", "unfused", "pafpn", "bifpn")
SEEDS = (0, 1, 2)
MISSING = ("bifpn", 2)
METRICS = ("mAP", "AP50", "AP75", "APs", "APm", "APl")
TOPOLOGIES = {"fpn": fpn, "unfused": unfused, "pafpn": pafpn, "bifpn": lambda levels: bifpn(levels, repeats=1)}
_SKILL = {"fpn": 1.0, "unfused": 1.1, "pafpn": 0.97, "bifpn": 0.92}  # how large the errors are
_T95 = {2: 12.7, 3: 4.3}


@dataclass(frozen=True)
class FakeAblation:
    """What ``write_report`` takes."""

    folder: Path
    plan: Plan
    runs: list[Run]
    scores: list[Score]
    comparisons: list[Comparison]
    ground_truth: Annotations
    image_of: Callable[[Any], Path]

    @property
    def arguments(self) -> tuple[Any, ...]:
        return tuple(vars(self).values())


def make_ablation(
    root: Path,
    *,
    num_images: int = 24,
    size: int = 96,
    max_size: float = 60,
    rename: dict[int, str] | None = None,
    id_of: Callable[[int], int | str] = int,
) -> FakeAblation:
    """Write the folder ``root/necks``.

    Args:
        root: an empty folder.
        num_images: of the validation set.
        size: of the pictures, in pixels.
        max_size: of their objects.
        rename: category id -> another name.
        id_of: number of an image -> its id in the file.
    """
    parameters = Shapes(
        num_train=1, num_val=num_images, image_size=size, min_size=8, max_size=max_size, max_objects=6, data_seed=0
    )
    data = generate(root / "data", parameters)
    truth = json.loads((data / "annotations" / "instances_val.json").read_text())
    for category in truth["categories"]:
        category["name"] = (rename or {}).get(category["id"], category["name"])
    for kind, key in (("images", "id"), ("annotations", "image_id")):
        for record in truth[kind]:
            record[key] = id_of(record[key])
    files = {image["id"]: data / "images" / "val" / image["file_name"] for image in truth["images"]}
    folder = root / "necks"
    plan = _plan()
    metrics: dict[tuple[str, int], dict[str, float]] = {}
    runs = [_write_run(folder, arm, seed, truth, metrics) for arm in ARMS for seed in SEEDS]
    names = [*METRICS, *(f"mAP/{category['name']}" for category in truth["categories"])]
    scores = [_score(arm, name, metrics) for arm in ARMS for name in names]
    comparisons = [_comparison(arm, names, metrics) for arm in ARMS[1:]]
    write_plan(folder, plan)
    write_comparison(folder, scores, comparisons)
    return FakeAblation(folder, plan, runs, scores, comparisons, annotations_of(truth), files.__getitem__)


def _plan() -> Plan:
    notes = {"unfused": ("filled with 2 plain 3x3 blocks of width 40 per level",), "bifpn": ("inner width 56",)}
    arms = tuple(
        Arm(name, {"neck": name}, () if name == "fpn" else (f"neck={name}", "neck.width=56"), notes.get(name, ()))
        for name in ARMS
    )
    covariates = {
        "unfused": {"nodes that fuse": ("2", "0")},
        "pafpn": {"3x3 convolutions of the neck": ("5", "8")},
        "bifpn": {"neck.norm": ("none", "batch"), "block": ("conv3", "separable")},
    }
    start = {name: {"P3": 1.5 - 0.25 * i, "logits": 0.05} for i, name in enumerate(ARMS)}
    start["bifpn"]["P6"] = 0.123456
    common = ("data=coco", "trainer.max_epochs=12")
    return Plan("necks", arms, SEEDS, common, "flops", ("norm",), (), 0.01, covariates, start=start)


def _write_run(
    folder: Path, arm: str, seed: int, truth: dict[str, Any], metrics: dict[tuple[str, int], dict[str, float]]
) -> Run:
    place = folder / "runs" / arm / f"seed-{seed}"
    if (arm, seed) == MISSING:
        run = Run(arm, seed, place, "out of memory", "exit code 137: the system killed it for its memory", 61.0)
        write_run(run)
        return run
    rng = np.random.default_rng([ARMS.index(arm), seed])
    predictions = _predictions(truth, _SKILL[arm] * rng.uniform(0.97, 1.03), rng)
    result = CocoEvaluator(truth).evaluate(predictions)
    metrics[arm, seed] = {name: result.stats[name] for name in METRICS}
    metrics[arm, seed] |= {f"mAP/{name}": values["AP"] for name, values in result.per_class.items()}
    write_json(place / "metrics.json", result.as_dict())
    write_json(place / "predictions.json", predictions)
    write_text(place / "config.yaml", yaml.safe_dump({"seed": seed, "neck": {"name": arm}}))
    write_json(place / "environment.json", {"python": "3.11.7", "detfuse": "0.1.0", "torch": "2.15.0"})
    places = (Place("lateral", "c3->t3", "SE"),) if arm == "fpn" else ()
    scales = {"t4": 0.4321} if arm == "pafpn" else {}
    write_json(place / "fusion.json", to_plain(Fusion(TOPOLOGIES[arm]((3, 4, 5)), places, scales)))
    typed = ["data=coco", f"neck={arm}", f"seed={seed}", "evaluate=last", "name=auto", f"runs_dir={folder}"]
    write_json(place / "command.json", {"overrides": typed, "choices": {}})
    index = ARMS.index(arm)
    flops = 2_310_000_000 + index * 11_000_000
    latency = (9.6, 8.9, 11.8, 16.3)[index]
    timing = Timing(0, "1f" * 32, "cpu", 2, "32-true", 2, ((64, 96), (96, 96)), 15)
    if arm == "bifpn":  # of which no checkpoint is left
        measured: dict[str, Any] = {"latency_ms": None, "untimed": "no finished run has its last checkpoint any more"}
    else:
        quartiles = {"latency_low": latency - 0.3, "latency_high": latency + 0.4}
        measured = {"latency_ms": latency, **quartiles, "timing": timing}
    counts = (5_470_000 - 90_000 * index, 310_000 + 9_000 * index, flops, (96, 96))
    write_cost(place, DetectorCost(*counts, **measured))
    _write_curves(place, arm, result.stats["mAP"], rng)
    run = Run(arm, seed, place, "finished", seconds=312.0 + 8 * seed)
    write_run(run)
    return run


def _predictions(truth: dict[str, Any], skill: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The objects, shifted, sometimes missed, confused or found twice, and some that are none."""
    rows = []
    ids = [category["id"] for category in truth["categories"]]
    for record in truth["annotations"]:
        x, y, w, h = record["bbox"]
        small = 1 + 6 / min(w, h) * skill
        if rng.random() < 0.1 * skill * small:
            continue
        category = rng.choice(ids) if rng.random() < 0.08 * skill else record["category_id"]
        for _ in range(1 + (rng.random() < 0.05)):
            shift = rng.normal(0, 0.06 * skill * small, 4)
            box = [x + shift[0] * w, y + shift[1] * h, w * np.exp(shift[2]), h * np.exp(shift[3])]
            score = float(1 / (1 + np.exp(-rng.normal(1.5, 1))))
            rows.append(_row(record["image_id"], category, box, score))
    for image in truth["images"]:
        for _ in range(rng.poisson(0.5 * skill)):
            side = rng.uniform(8, 30)
            corner = rng.uniform(0, image["width"] - side, 2)
            rows.append(_row(image["id"], rng.choice(ids), [*corner, side, side], float(rng.uniform(0.05, 0.6))))
    return rows


def _row(image: Any, category: Any, box: list[Any], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": int(category), "bbox": [float(v) for v in box], "score": score}


def _write_curves(place: Path, arm: str, last: float, rng: np.random.Generator) -> None:
    with (place / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "train/loss", "val/mAP"])
        for epoch in range(12):
            writer.writerow([epoch, 100 * epoch + 50, 2 - epoch / 10, ""])
            value = last * (1 - np.exp(-(epoch + 1) / 3)) / (1 - np.exp(-4)) + rng.normal(0, 0.006) * (epoch < 11)
            writer.writerow([epoch, 100 * epoch + 100, "", max(value, 0)])
    if arm == "bifpn":
        with (place / "fusion_weights.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            edges = [e for e in TOPOLOGIES[arm]((3, 4, 5)).edges if e[1] in ("d1_5", "p4", "p5")]
            final = {edge: rng.uniform(0.1, 0.6) for edge in edges}
            writer.writerow(["epoch", "step", *(f"{node}<-{source}" for source, node in edges)])
            for epoch in range(12):
                row = [final[e] + (1 / 3 - final[e]) * np.exp(-epoch / 4) for e in edges]
                writer.writerow([epoch, 100 * epoch + 100, *row])


def _score(arm: str, metric: str, metrics: dict[tuple[str, int], dict[str, float]]) -> Score:
    values = {seed: metrics[arm, seed][metric] if (arm, seed) in metrics else None for seed in SEEDS}
    defined = [value for value in values.values() if value is not None and value >= 0]
    per_seed = {seed: value if value is not None and value >= 0 else None for seed, value in values.items()}
    if not defined:
        return Score(arm, metric, per_seed, None, None)
    return Score(arm, metric, per_seed, float(np.mean(defined)), float(np.std(defined, ddof=1)))


def _comparison(arm: str, names: list[str], metrics: dict[tuple[str, int], dict[str, float]]) -> Comparison:
    seeds = tuple(seed for seed in SEEDS if (arm, seed) in metrics)
    differences = tuple(_difference(arm, name, seeds, metrics) for name in names)
    main = differences[0]
    assert main.estimate is not None
    assert main.low is not None
    assert main.high is not None
    points = f"{100 * main.estimate:+.1f} points mAP (95 % interval {100 * main.low:+.1f} to {100 * main.high:+.1f})"
    if main.low > 0:
        verdict = Verdict("better", f"{arm} is better than fpn: {points}.")
    elif main.high < 0:
        verdict = Verdict("worse", f"{arm} is worse than fpn: {points}.")
    else:
        verdict = Verdict("undecided", f"{arm} against fpn is undecided: {points}; needs about 4 more seeds.", 4)
    dropped = {} if len(seeds) == len(SEEDS) else {MISSING[1]: f"{arm}: out of memory"}
    share = {"unfused": 0.91, "pafpn": 0.97, "bifpn": 0.88}[arm]
    return Comparison(arm, "fpn", seeds, dropped, differences, verdict, 0.62 if len(seeds) > 2 else None, share)


def _difference(
    arm: str, name: str, seeds: tuple[int, ...], metrics: dict[tuple[str, int], dict[str, float]]
) -> Difference:
    pairs = {seed: (metrics[arm, seed][name], metrics["fpn", seed][name]) for seed in seeds}
    per_seed = {seed: a - b for seed, (a, b) in pairs.items() if min(a, b) >= 0}
    if not per_seed:
        return Difference(name, {}, None, None, None, None, None, "undefined: no objects")
    estimate = float(np.mean(list(per_seed.values())))
    se_seeds = float(np.std(list(per_seed.values()), ddof=1) / len(per_seed) ** 0.5)
    se_images = 0.008 if name == "mAP" else 0.016
    half = 0.45 * _T95[len(per_seed)] * float(np.hypot(se_seeds, se_images))
    main = name == "mAP"
    p_corrected = 0.031 if main else None
    method = "two-way variance, Satterthwaite's t"
    return Difference(
        name, per_seed, estimate, estimate - half, estimate + half, se_seeds, se_images, method, 0.02, p_corrected
    )
