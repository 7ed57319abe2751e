"""One arm under many names, trained for real: ``python scripts/benchmark.py nulls``.

Every run has a seed of its own, so that the names differ by chance alone, and every verdict that one is better than
another is false. One dealing of the runs to names is one ablation; as no run differs from another but by its seed, any
other dealing is as good an ablation, and many of them tell how often a verdict is false.
"""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import timm  # noqa: F401  # and the command: imported once, for all runs

from detfuse.cli import training_run  # noqa: F401
from detfuse.evaluation import read_annotations, read_results
from detfuse.evaluation.replicates import ReplicateEvaluator
from detfuse.evaluation.scoring import Scored, score_runs
from detfuse.files.run_files import PREDICTIONS
from detfuse.statistics.comparison import MAIN, judge, weightings
from detfuse.statistics.records import Comparison

NAMES, SEEDS, JOBS, IMAGES = 12, 3, 2, 60
SMALL = (
    *("data.num_train=64", f"data.num_val={IMAGES}", "data.image_size=64", "data.min_size=20", "data.max_size=40"),
    *("data.max_objects=1", "data.transform.short_side=64", "data.loader.num_workers=0", "data.loader.batch_size=8"),
    *("backbone=timm", "backbone.name=test_resnet", "neck.out_channels=16", "head.num_convs=1", "optimizer.lr=0.003"),
    *("trainer.max_epochs=6", "trainer.check_val_every_n_epoch=6", "trainer.accelerator=cpu", "evaluate=last"),
    *("logger=none", "callbacks.pictures=null"),
)
DEALT = ((12, 3), (5, 3), (3, 3), (2, 3))
DEALINGS = 1000


def nulls(names: int | str = NAMES, seeds: int | str = SEEDS, jobs: int | str = JOBS) -> None:
    """False verdicts of one arm under several names, as trained and as dealt anew."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        count = int(names) * int(seeds)
        with get_context("fork").Pool(int(jobs), maxtasksperchild=1) as pool:
            pool.starmap(_train, [(Path(folder), seed) for seed in range(count)], chunksize=1)
        runs = _scored(Path(folder), count)
    scores = 100 * np.array([run.values[0, 0] for run in runs])
    print(
        f"{len(runs)} runs, mAP {scores.mean():.2f} points, standard deviation {scores.std(ddof=1):.2f}; "
        f"{time.process_time() - start:.0f} s of processor time beside the trainings"
    )
    as_trained = judged([runs[k * int(seeds) : (k + 1) * int(seeds)] for k in range(int(names))])
    told = [one.verdict.text for one in as_trained if one.verdict.kind in ("better", "worse")]
    print(f"as trained, {names} names, {seeds} seeds: {len(told)} false verdicts", *told, sep="\n")
    print("| names | seeds | ablations with a false verdict, % | arms wrongly told apart, % |\n|--:|--:|--:|--:|")
    rng = np.random.default_rng(0)
    for size, count in DEALT:
        if size * count <= len(runs):
            false = np.array([_false(size, count, runs, rng) for _ in range(DEALINGS)])
            print(f"| {size} | {count} | {100 * (false > 0).mean():.1f} | {100 * false.mean() / (size - 1):.2f} |")


def _false(names: int, seeds: int, runs: Sequence[Scored], rng: np.random.Generator) -> int:
    dealt = rng.permutation(len(runs))[: names * seeds].reshape(names, seeds)
    comparisons = judged([[runs[place] for place in row] for row in dealt])
    return sum(one.verdict.kind in ("better", "worse") for one in comparisons)


def judged(arms: Sequence[Sequence[Scored]]) -> Sequence[Comparison]:
    """What the judge says of arms, the first of which is the baseline, by their mAP alone."""
    named = {
        str(number): {seed: run._replace(values=run.values[:, :1]) for seed, run in enumerate(runs)}
        for number, runs in enumerate(arms)
    }
    return judge(named, [MAIN], "0", num_images=IMAGES).comparisons


def _scored(folder: Path, count: int) -> list[Scored]:
    (truth,) = folder.glob("datasets/synthetic/*/annotations/instances_val.json")
    evaluator = ReplicateEvaluator(read_annotations(truth))
    files = {seed: folder / "runs" / "default" / f"seed-{seed}" / PREDICTIONS for seed in range(count)}
    reading = {"arm": {seed: partial(read_results, path) for seed, path in files.items()}}
    return list(score_runs(evaluator, reading, weightings(evaluator.num_images))["arm"].values())


def _train(folder: Path, seed: int) -> None:
    with (folder / f"{seed}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(folder)
    script = Path(__file__).parents[1] / "train.py"
    sys.argv = [str(script), *SMALL, f"seed={seed}", f"name=seed-{seed}"]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError((folder / f"{seed}.log").read_text(encoding="utf-8")[-2000:]) from ended
