"""Figures of the docs: ``python scripts/benchmark.py NAME``; the names are those of ``SECTIONS`` at the end."""

from __future__ import annotations

import argparse
import csv
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detfuse.config import TrainSettings
from detfuse.evaluation.replicates import ReplicateEvaluator
from detfuse.files.text import write_text
from detfuse.runs.threads import GENTLE
from detfuse.statistics import simulation as sim
from detfuse.visualize import axes, draw

NUM_IMAGES, NUM_CLASSES, NUM_OBJECTS, NUM_DETECTIONS = 5000, 80, 36_000, 500_000


def replicates(count: int = 1000) -> None:
    """Processor time to score ``count`` weightings of one pair of result files as large as those of COCO val2017."""
    rng = np.random.default_rng(0)
    truth, objects = _ground_truth(rng)
    evaluator = ReplicateEvaluator(truth)
    seconds = 0.0
    for side in ("a", "b"):
        rows = _detections(rng, objects)
        start = time.process_time()
        matched = evaluator.match(rows)
        middle = time.process_time()
        values = matched.evaluate(rng.exponential(size=(count, NUM_IMAGES)))
        end = time.process_time()
        seconds += end - start
        print(
            f"{side}: {NUM_IMAGES:,} images, {NUM_CLASSES} classes, {NUM_OBJECTS:,} objects, {len(rows):,} detections: "
            f"matching {middle - start:.1f} s, {count:,} replicates {end - middle:.1f} s; "
            f"generated mAP {values[:, 0].mean():.4f}, standard error {values[:, 0].std():.4f}"
        )
    print(f"the pair: {seconds:.0f} s of processor time")


def _ground_truth(rng: np.random.Generator) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """COCO json, and (objects, 6): image, category, x, y, w, h; classes as uneven as COCO's."""
    image = rng.integers(NUM_IMAGES, size=NUM_OBJECTS)
    category = _categories(rng, NUM_OBJECTS)
    boxes = _boxes(rng, NUM_OBJECTS)
    crowd = rng.random(NUM_OBJECTS) < 0.01
    columns = zip(image.tolist(), category.tolist(), boxes.tolist(), crowd.tolist(), strict=True)
    truth = {
        "images": [{"id": i} for i in range(NUM_IMAGES)],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(NUM_CLASSES)],
        "annotations": [
            {"id": i, "image_id": im, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": int(many)}
            for i, (im, k, box, many) in enumerate(columns)
        ],
    }
    return truth, np.column_stack([image, category, boxes])


def _detections(rng: np.random.Generator, objects: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Four near every object, the rest anywhere with low scores."""
    near = np.repeat(objects, 4, axis=0)
    near[:, 2:4] += rng.normal(0, 0.08, (len(near), 2)) * near[:, 4:]
    near[:, 4:] *= np.exp(rng.normal(0, 0.1, (len(near), 2)))
    size = NUM_DETECTIONS - len(near)
    stray = np.column_stack([rng.integers(NUM_IMAGES, size=size), _categories(rng, size), _boxes(rng, size)])
    scores = np.concatenate([rng.beta(3, 2, len(near)), rng.beta(1, 8, size)])
    rows = np.concatenate([near, stray]).tolist()
    return [
        {"image_id": int(row[0]), "category_id": int(row[1]), "bbox": row[2:], "score": score}
        for row, score in zip(rows, scores.tolist(), strict=True)
    ]


def _categories(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return np.minimum(rng.geometric(0.06, size) - 1, NUM_CLASSES - 1)


def _boxes(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return np.column_stack([rng.uniform(0, 400, (size, 2)), np.exp(rng.uniform(np.log(8), np.log(250), (size, 2)))])


REPETITIONS = 4000
GRID = {"seeds": (2, 3, 5, 10), "arms": (2, 3, 4, 5, 8), "images": (100, 1000, 5000), "correlation": (0.0, 0.5)}
PLANS = {"planned 2, 3, 5": ((2, 3, 5), (2, 3, 5)), "until decided, 3 to 8": (range(3, 9), (3,))}  # looks, planned ones
RULES: dict[str, sim.Rule] = {"paired t, Holm": sim.paired_holm, "detfuse": sim.ours}
DIFFERENCE, LIMIT = 2 * sim.SOURCES["seeds"][0], 0.5  # AP points: two standard deviations between seeds; what matters
COLUMNS = ["source", "noise", "correlation", "images", "arms", "seeds", "looks", "rule", "false verdicts"]
MEASURED = ["coverage", "false equivalents", "power", "share of the runs"]


def verdicts(repetitions: int = REPETITIONS) -> None:
    """False verdicts, coverage and power of simulated ablations: .github/verdicts.csv and .github/verdicts.svg."""
    rows = [row for cell in _cells() for row in _judged(cell, repetitions)]
    rows += [
        row for cell in _cells() if cell.seeds == 10 and cell.images == 5000 for row in _looked_at(cell, repetitions)
    ]
    folder = Path(__file__).resolve().parent.parent / ".github"
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *MEASURED], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    write_text(folder / "verdicts.csv", text.getvalue())
    write_text(folder / "verdicts.svg", _figure(rows))
    print(_summary(rows))
    print(f"written to {folder}/verdicts.csv and verdicts.svg")


def _cells() -> Iterator[sim.Cell]:
    for source in sim.SOURCES:
        for noise in sim.NOISES:
            for seeds, arms, images, correlation in product(*GRID.values()):
                if arms > 2 or noise != "one learnt nothing":
                    yield sim.Cell(int(seeds), int(arms), int(images), noise, correlation, source)


def _judged(cell: sim.Cell, repetitions: int) -> Iterator[dict[str, Any]]:
    layout = sim.draw(np.random.default_rng(_seed(cell)), cell, repetitions)
    for name, rule in RULES.items():
        rates = sim.rates(rule, layout, DIFFERENCE, LIMIT)
        found = _about(cell, name, "one") | dict(zip(["false verdicts", *MEASURED], rates, strict=False))
        if rule is not sim.ours:  # Holm corrected equivalence apart, which is not simulated
            del found["false equivalents"]
        yield found


def _looked_at(cell: sim.Cell, repetitions: int) -> Iterator[dict[str, Any]]:
    for plan, (looks, planned) in PLANS.items():
        layout = sim.draw(np.random.default_rng(_seed(cell)), replace(cell, seeds=looks[-1]), repetitions)
        for name, rule in RULES.items():
            false, share = sim.looked_at(rule, layout, looks, planned if rule is sim.ours else None)
            about = _about(replace(cell, seeds=looks[-1]), name, plan)
            yield about | {"false verdicts": false, "share of the runs": share}


def _about(cell: sim.Cell, rule: str, looks: str) -> dict[str, Any]:
    return {**asdict(cell), "looks": looks, "rule": rule}


def _seed(cell: sim.Cell) -> list[int]:
    return [cell.seeds, cell.arms, cell.images, sim.NOISES.index(cell.noise), int(10 * cell.correlation)]


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    """What the docs quote, as tables."""
    looks = list(dict.fromkeys(row["looks"] for row in rows))
    lines = ["| looks | noise | " + " | ".join(f"{rule}: worst, mean" for rule in RULES) + " |", "|---|---|--:|--:|"]
    for look, noise in product(looks, sim.NOISES):
        shown = []
        for rule in RULES:
            found = [r["false verdicts"] for r in rows if (r["looks"], r["noise"], r["rule"]) == (look, noise, rule)]
            shown.append(f"{100 * max(found):.1f}, {100 * np.mean(found):.1f}")
        lines.append(f"| {look} | {noise} | {' | '.join(shown)} |")
    for name, worst in (("coverage", min), ("false equivalents", max)):
        values = {rule: [row[name] for row in rows if row["rule"] == rule and name in row] for rule in RULES}
        told = [f"{rule} {100 * worst(found):.1f}" for rule, found in values.items() if found]
        lines.append(f"worst {name}: {', '.join(told)}")
    lines += ["| arms | correlation | rule | " + " | ".join(f"{s} seeds" for s in GRID["seeds"]) + " |"]
    lines += ["|--:|--:|---|" + "--:|" * len(GRID["seeds"])]
    for arms, correlation, rule in product(GRID["arms"], GRID["correlation"], RULES):
        found = [f"{100 * _power(rows, rule, arms, correlation)[seeds]:.0f}" for seeds in GRID["seeds"]]
        lines.append(f"| {arms} | {correlation:g} | {rule} | {' | '.join(found)} |")
    return "\n".join(lines)


def _power(rows: Sequence[dict[str, Any]], rule: str, arms: float, correlation: float) -> dict[float, float]:
    """Seeds -> power, of equally noisy arms on 5,000 images where seeds dominate."""
    wanted = {"rule": rule, "arms": arms, "correlation": correlation, "looks": "one"}
    wanted |= {"noise": "equal", "images": 5000, "source": "seeds"}
    return {row["seeds"]: row["power"] for row in rows if all(row[key] == value for key, value in wanted.items())}


SHADES = dict(zip(RULES, ("#9e9e9e", "#2171b5"), strict=True))
LEFT, TOP, WIDTH, HEIGHT, MOST = 46, 60, 560, 200, 0.18


def _figure(rows: Sequence[dict[str, Any]]) -> str:
    """Above, false verdicts of every cell by kind of noise; below, with looks."""
    looks = list(dict.fromkeys(row["looks"] for row in rows))
    title = "Family-wise false verdicts in %, of simulated ablations; a dot is one cell of the grid"
    width, height = LEFT + WIDTH + 20, TOP + len(looks) * (HEIGHT + 40)
    parts = [draw.rect(0, 0, width, height, color="white"), draw.text(LEFT, 16, title, size=11)]
    for place, (rule, shade) in enumerate(SHADES.items()):
        parts.append(draw.dot(LEFT + 6 + 130 * place, 32, 4, shade))
        parts.append(draw.text(LEFT + 16 + 130 * place, 36, rule, size=11))
    for number, look in enumerate(looks):
        parts += _panel([r for r in rows if r["looks"] == look], look, TOP + number * (HEIGHT + 40))
    return draw.document(width, height, parts, title) + "\n"


def _panel(rows: Sequence[dict[str, Any]], look: str, top: int) -> list[str]:
    y = axes.PixelScale(0, MOST, top + HEIGHT - 20, top)
    called = "one look" if look == "one" else f"looks {look}"
    parts = [draw.text(LEFT, top - 4, called, size=11, bold=True)]
    for tick in (0.0, 0.05, 0.1, 0.15):
        color, dash = ("#d62728", "4 3") if tick == 0.05 else (draw.RULE, None)
        parts.append(draw.line(LEFT, y(tick), LEFT + WIDTH, y(tick), color=color, dash=dash))
        parts.append(draw.text(LEFT - 6, y(tick) + 4, f"{100 * tick:.0f}", size=11, anchor="end"))
    step = WIDTH / len(sim.NOISES)
    for place, noise in enumerate(sim.NOISES):
        middle = LEFT + (place + 0.5) * step
        parts.append(draw.text(middle, top + HEIGHT, noise, size=9, anchor="middle"))
        for side, (rule, shade) in enumerate(SHADES.items()):
            found = sorted(r["false verdicts"] for r in rows if r["rule"] == rule and r["noise"] == noise)
            left = middle + (side - 1) * 0.45 * step + 2
            for i, value in enumerate(found):
                parts.append(draw.dot(left + 0.38 * step * i / len(found), y.inside(value), 1.2, shade))
    return parts


WAITING = {"default": {}, "detfuse": GENTLE, "passive": {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}}
BUSY = "while True: pass"


def threads(rounds: int = 7) -> None:
    """Seconds of a training step by number of threads and how they wait, alone and beside one busy process.

    All take turns in every round; a process that waits for its turn does nothing.
    """
    variants = [("1", "default"), *(("2", policy) for policy in WAITING)]  # a single thread waits for no other
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    workers = {}
    for number, policy in variants:
        workers[number, policy] = subprocess.Popen(
            [sys.executable, __file__, "steps"],
            env=clean | {"OMP_NUM_THREADS": number} | WAITING[policy],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    times: dict[tuple[str, str, str], list[float]] = {}
    try:
        for _ in range(rounds + 1):
            for beside in ("alone", "beside one busy process"):
                busy = subprocess.Popen([sys.executable, "-c", BUSY]) if beside != "alone" else None
                for variant, worker in workers.items():
                    times.setdefault((*variant, beside), []).append(_step_of(worker))
                if busy:
                    busy.kill()
                    busy.wait()
    finally:
        for worker in workers.values():
            worker.kill()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, load average {load}; seconds per step, median (quartiles) of {rounds} rounds")
    print("| threads | waiting | beside | seconds |\n|--:|---|---|--:|")
    for (number, policy, beside), taken in times.items():
        low, middle, high = np.quantile(taken[1:], (0.25, 0.5, 0.75))  # the first warms up
        print(f"| {number} | {policy} | {beside} | {middle:.2f} ({low:.2f}-{high:.2f}) |")


def _step_of(worker: subprocess.Popen[str]) -> float:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("step\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def steps() -> None:
    """A training step of the default detector on eight 128-pixel images for every line that is read; prints seconds."""
    import torch

    from detfuse.build import build_detector, instantiate
    from detfuse.config.resolve import resolve
    from detfuse.structures import Batch, Targets

    config = resolve([], TrainSettings).config
    detector = build_detector(config, 3).to(memory_format=torch.channels_last)
    optimizer = instantiate(config["optimizer"])(detector, 8)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, 128, 128), generator=generator, dtype=torch.uint8)
    corners, sides = 88 * torch.rand(8, 8, 2, generator=generator), 8 + 32 * torch.rand(8, 8, 2, generator=generator)
    targets = Targets(
        torch.cat([corners, corners + sides], dim=-1),
        torch.randint(3, (8, 8), generator=generator),
        torch.ones(8, 8, dtype=torch.bool),
        torch.zeros(8, 8, dtype=torch.bool),
    )
    size, ids = torch.full((8, 2), 128), torch.arange(8)
    batch = Batch(images.to(memory_format=torch.channels_last), size, size, torch.ones(8, 2), ids, targets)
    for _ in sys.stdin:
        start = time.perf_counter()
        optimizer.zero_grad()
        torch.stack(list(detector.loss(batch).values())).sum().backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        print(time.perf_counter() - start, flush=True)


def _of_runs(name: str) -> Callable[..., None]:
    """A section of :mod:`benchmarks`, beside this file, imported when it is asked for: some need torch."""
    return lambda *given: getattr(import_module(f"benchmarks.{name}"), name)(*given)


SECTIONS: dict[str, Callable[..., None]] = {
    "parity": _of_runs("parity"),
    "kills": _of_runs("kills"),
    "memory": _of_runs("memory"),
    "quickstart": _of_runs("quickstart"),
    "reading": _of_runs("reading"),
    "nulls": _of_runs("nulls"),
    "generated": _of_runs("generated"),
    "bank": _of_runs("bank"),
    "baseline_seeds": _of_runs("baseline_seeds"),
    "replicates": replicates,
    "verdicts": verdicts,
    "threads": threads,
    "steps": steps,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("arguments", nargs="*", help="of parity: a picture, names of detectors; of others: how many")
    given = parser.parse_args()
    SECTIONS[given.section](*given.arguments)
