"""Figures of the docs: ``python scripts/benchmark.py NAME``; the names are those of ``SECTIONS`` at the end."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from detfuse.config import TrainSettings
from detfuse.evaluation.replicates import ReplicateEvaluator
from detfuse.files.text import write_text
from detfuse.runs.threads import GENTLE
from detfuse.statistics.comparison import holm
from detfuse.statistics.intervals import LEVEL, equivalence_p, interval, variances_of
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


SEEDS, IMAGES = (2, 3, 5, 10), (100, 500, 2000, 5000)
METHODS = ("detfuse", "two-way t alone", "percentile bootstrap")
GROUPS, RESAMPLES = 100, 300
# Of a difference of AP, in points: standard deviation between seeds, between images, and of both together for one seed
# and one image.
NOISE = {"seeds dominate": (0.4, 3.0, 6.0), "images dominate": (0.35, 9.0, 18.0)}


def crossed(
    rng: np.random.Generator, noise: str, seeds: int, images: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Differences of two equal arms: (S,), and (S, G) with each of G groups of images left out.

    The means of the groups are drawn, as a jackknife of a mean sees nothing else.
    """
    seed_effect, image_effect, residual = NOISE[noise]
    size = images / GROUPS
    groups = (
        rng.normal(0, seed_effect, (seeds, 1))
        + rng.normal(0, image_effect / size**0.5, (1, GROUPS))
        + rng.normal(0, residual / size**0.5, (seeds, GROUPS))
    )
    total = groups.mean(axis=1)
    return total, (GROUPS * total[:, None] - groups) / (GROUPS - 1)


def covered(rng: np.random.Generator, noise: str, seeds: int, images: int, methods: int = len(METHODS)) -> list[bool]:
    """Whether the 95 % interval of each method holds the true difference, 0, in one simulated ablation."""
    total, without = crossed(rng, noise, seeds, images)
    estimate, variances = float(total.mean()), variances_of(total, without)
    found = interval(estimate, variances)
    assert found.low is not None
    assert found.high is not None
    assert variances.total is not None
    holds = [found.low <= 0 <= found.high]
    if methods > 1:
        holds.append(2 * stdtr(variances.freedom, -abs(estimate) / variances.total**0.5) >= LEVEL)
    if methods > 2:
        groups = GROUPS * total[:, None] - (GROUPS - 1) * without
        by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
        by_group = rng.multinomial(GROUPS, np.full(GROUPS, 1 / GROUPS), RESAMPLES)
        low, high = np.quantile(((by_seed @ groups) * by_group).sum(axis=1), (LEVEL / 2, 1 - LEVEL / 2))
        holds.append(bool(low <= 0 <= high))
    return holds


def coverage(repetitions: int = 2000) -> None:
    """Coverage of the 95 % interval over seeds x images, as a table and as .github/coverage.svg."""
    rates = {}
    print("| noise | seeds | images |", " | ".join(METHODS), "|\n|---|--:|--:|--:|--:|--:|")
    for row, noise in enumerate(NOISE):
        for seeds in SEEDS:
            for images in IMAGES:
                rng = np.random.default_rng([row, seeds, images])
                rate = np.mean([covered(rng, noise, seeds, images) for _ in range(repetitions)], axis=0)
                rates[noise, seeds, images] = rate
                shown = " | ".join(f"{100 * value:.1f}" for value in rate)
                print(f"| {noise} | {seeds} | {images:,} | {shown} |", flush=True)
    figure = Path(__file__).resolve().parent.parent / ".github" / "coverage.svg"
    write_text(figure, _figure(rates))
    print(f"written to {figure}")


ARMS, LIMIT = (1, 5, 10), 0.5  # AP points


def falsely_equivalent(rng: np.random.Generator, arms: int, seeds: int = 5, images: int = 2000) -> tuple[bool, bool]:
    """Whether any arm is called equivalent that differs by just as much as matters: corrected, and by itself.

    In one simulated ablation where seeds dominate; the arms share the baseline's seeds and images.
    """
    baseline = crossed(rng, "seeds dominate", seeds, images)
    p = []
    for _ in range(arms):
        arm = crossed(rng, "seeds dominate", seeds, images)
        total, without = (LIMIT + (a - b) / 2**0.5 for a, b in zip(arm, baseline, strict=True))
        p.append(equivalence_p(float(total.mean()), variances_of(total, without), LIMIT) or 0.0)
    return min(holm(p)) < LEVEL, min(p) < LEVEL


def equivalence(repetitions: int = 4000) -> None:
    """How often an ablation calls any arm equivalent that is not, by the number of arms."""
    print("| arms | detfuse | each arm by its own interval |\n|--:|--:|--:|")
    for arms in ARMS:
        rng = np.random.default_rng([arms])
        rates = np.mean([falsely_equivalent(rng, arms) for _ in range(repetitions)], axis=0)
        print(f"| {arms} | {' | '.join(f'{100 * rate:.1f}' for rate in rates)} |", flush=True)


LOWEST = 0.7
LEFT, WIDTH, TOP, HEIGHT = 46, 262, 40, 190  # of the panels, pixels
SHADES = dict(zip(IMAGES, ("#9ecae1", "#6baed6", "#2171b5", "#08306b"), strict=True))


def _figure(rates: dict[tuple[str, int, int], NDArray[np.float64]]) -> str:
    """A row per kind of noise, a panel per method."""
    width, height = LEFT + len(METHODS) * WIDTH - 16, TOP + len(NOISE) * HEIGHT
    title = "coverage of the 95 % interval in %, of simulated ablations"
    parts = [draw.rect(0, 0, width, height, color="white"), draw.text(LEFT, 14, title, size=11)]
    for row, noise in enumerate(NOISE):
        for column, method in enumerate(METHODS):
            panel = {cell[1:]: float(rate[column]) for cell, rate in rates.items() if cell[0] == noise}
            parts += _panel(panel, f"{method}: {noise}", LEFT + column * WIDTH, TOP + row * HEIGHT)
    for step, (images, shade) in enumerate(SHADES.items()):
        parts.append(draw.dot(LEFT + 6 + 130 * step, height - 14, 4, shade))
        parts.append(draw.text(LEFT + 16 + 130 * step, height - 10, f"{images:,} images", size=11))
    return draw.document(width, height, parts, title) + "\n"


def _panel(rates: dict[tuple[int, int], float], title: str, left: int, top: int) -> list[str]:
    """A group of dots per number of seeds, from few images (light) to many (dark); what is below lies on the edge."""
    y = axes.Scale(LOWEST, 1, top + HEIGHT - 60, top)
    parts = [draw.text(left + 100, top - 8, title, size=11, anchor="middle", bold=True)]
    for tick in (0.7, 0.8, 0.9, 0.95, 1.0):
        level, dash = ("#d62728", "4 3") if tick == 0.95 else (draw.RULE, None)
        parts.append(draw.line(left, y(tick), left + 200, y(tick), color=level, dash=dash))
        parts.append(draw.text(left - 6, y(tick) + 4, f"{100 * tick:.0f}", size=11, anchor="end"))
    for place, seeds in enumerate(SEEDS):
        middle = left + 25 + 50 * place
        parts.append(draw.text(middle, y(LOWEST) + 18, f"{seeds} seeds", size=11, anchor="middle"))
        for step, (images, shade) in enumerate(SHADES.items()):
            rate = rates[seeds, images]
            told = f"{images:,} images: {100 * rate:.1f} %"
            parts.append(draw.dot(middle - 12 + 8 * step, y.inside(rate), 4, shade, title=told))
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


SMALL = (
    *("data.num_train=18", "data.num_val=4", "data.image_size=64", "data.max_size=40", "data.transform.short_side=64"),
    *("data.loader.batch_size=2", "neck.out_channels=16", "head.num_convs=1", "trainer.max_epochs=3", "logger=none"),
    *("callbacks.pictures=null", "trainer.accelerator=cpu", "trainer.limit_val_batches=1"),
)
KILLED = {
    "plain": ("data.loader.num_workers=0",),
    "two workers": ("data.loader.num_workers=2",),
    "two workers, average, steps of two batches": (
        *("data.loader.num_workers=2", "callbacks=ema", "trainer.accumulate_grad_batches=2"),
    ),
    "crop, jitter, brightness": (
        *("data.loader.num_workers=2", "data.transform.crop=0.5", "data.transform.scale_jitter=[0.5,1.5]"),
        "data.transform.brightness=0.3",
    ),
    "bf16-mixed": ("data.loader.num_workers=2", "trainer.precision=bf16-mixed"),
    "two processes": ("data.loader.num_workers=2", "trainer.devices=2", "trainer.strategy=ddp"),
}


def kills(points: int = 5) -> None:
    """Kill a run (SIGKILL, its whole group) at random steps, go on each time, and compare with one that was not killed.

    A checkpoint is written after every second step. What is compared is all of ``last.ckpt`` but the run's own name.
    """
    rng = np.random.default_rng(0)
    print("| setting | killed after step | parts that differ |\n|---|---|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for setting, given in KILLED.items():
            argv = [*SMALL, *given, "callbacks.checkpoints.every_n_steps=2"]
            steps = 27 // (2 if "trainer.accumulate_grad_batches=2" in given else 1) // (2 if "two p" in setting else 1)
            whole = _trained(Path(folder), [*argv, f"name={_slug(setting)}"], None)
            for step in sorted(rng.choice(np.arange(2, steps - 1), size=points, replace=False).tolist()):
                name = f"name={_slug(setting)}-{step}"
                _trained(Path(folder), [*argv, name], step)
                resumed = _trained(Path(folder), [*argv, name, "resume=true"], None)
                print(f"| {setting} | {step} | {_differing(whole, resumed)} |", flush=True)


def _slug(setting: str) -> str:
    return setting.replace(", ", "-").replace(" ", "-")


def _trained(folder: Path, argv: list[str], kill_at: int | None) -> dict[str, Any]:
    """What ``last.ckpt`` holds after a run; or at its death, once it has stored so many steps."""
    import torch

    name = next(argument for argument in argv if argument.startswith("name=")).removeprefix("name=")
    last = folder / "runs" / "default" / name / "checkpoints" / "last.ckpt"
    with (folder / f"{name}.log").open("a") as log:
        run = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("train.py"), *argv],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        seen = 0
        while run.poll() is None:
            time.sleep(0.01)
            if kill_at is not None and last.is_file() and last.stat().st_mtime_ns != seen:
                seen = last.stat().st_mtime_ns
                stored: dict[str, Any] = torch.load(last, weights_only=True)
                if stored["global_step"] >= kill_at:
                    os.killpg(run.pid, signal.SIGKILL)
                    run.wait()
                    return stored
    if run.returncode:
        raise SystemExit((folder / f"{name}.log").read_text()[-2000:])
    found: dict[str, Any] = torch.load(last, weights_only=True)
    return found


def _differing(a: Any, b: Any) -> int:
    """How many tensors, numbers and texts of two checkpoints are not the same to the last bit."""
    import torch

    if isinstance(a, dict) and isinstance(b, dict):
        keys = (a.keys() | b.keys()) - {"config"}  # it has the run's name
        return sum(_differing(a.get(key), b.get(key)) for key in keys)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return sum(_differing(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return int(not torch.equal(a, b))
    return int(a != b)


def parity(picture: str | None = None, *models: str) -> None:
    """Published detectors against ours, live: [a picture] [names of detectors]."""
    from parity import table

    table(picture, *models)


SECTIONS: dict[str, Callable[..., None]] = {
    "parity": parity,
    "kills": kills,
    "replicates": replicates,
    "coverage": coverage,
    "equivalence": equivalence,
    "threads": threads,
    "steps": steps,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("arguments", nargs="*", help="of parity: a picture, names of detectors")
    given = parser.parse_args()
    SECTIONS[given.section](*given.arguments)
