"""The quickstart's verdict, again and again: ``python scripts/benchmark.py quickstart [SETS OF SEEDS]``."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

from detfuse.ablation.storage import read_comparisons
from detfuse.evaluation import read_annotations, read_results
from detfuse.evaluation.replicates import ReplicateEvaluator
from detfuse.evaluation.scoring import score_runs
from detfuse.files.run_files import PREDICTIONS
from detfuse.statistics.comparison import MAIN, judge, weightings
from detfuse.statistics.looks import next_level
from detfuse.statistics.records import Comparison
from detfuse.words import signed

ABLATE = Path(__file__).parents[1] / "ablate.py"
BASELINE, SEEDS = "unfused", 3  # of a set
WAYS: tuple[tuple[str, str, list[str]], ...] = (  # words, threads of a run, what is typed; the first is the README's
    ("2 runs at a time, 1 thread each", "1", ["jobs=2"]),
    ("1 run at a time, 2 threads", "2", []),
    ("as the first, looks after 2 and 3 seeds", "1", ["jobs=2", "looks=[2,3]"]),
)


def quickstart(sets: str = "3") -> None:
    """Repeat the quickstart with sets of seeds that share none, and the first of them with 2 threads and with looks.

    A verdict is right if both fused arms are better than the unfused one, which the data make so. Any three of the
    seeds would have been a set as well: how many of those are right says more than the sets themselves. Folders and
    data are made in a temporary folder, and go with it.
    """
    right = []
    print("| seeds | way | verdicts: AP points [95 %] | processor, min | clock, min |\n|---|---|---|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for first in range(0, SEEDS * int(sets), SEEDS):
            seeds = list(range(first, first + SEEDS))
            for number, (way, threads, given) in enumerate(WAYS[:1] if first else WAYS):
                name = f"name={first}-{number}"
                arguments = [f"seeds={seeds}".replace(" ", ""), name, *given]
                processor, clock = _seconds(Path(folder), arguments, threads)
                verdicts = read_comparisons(Path(folder) / "runs" / "ablations" / f"{first}-{number}")
                right.append(_right(verdicts))
                told = "; ".join(_told(one) for one in verdicts)
                print(f"| {seeds} | {way} | {told} | {processor / 60:.1f} | {clock / 60:.1f} |", flush=True)
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"right in {sum(right)} of {len(right)} ({os.cpu_count()} cores, load average {load} at the end)")
        _any_three(sorted(Path(folder).glob("runs/ablations/*-0")))


def _any_three(ablations: Sequence[Path]) -> None:
    """Print how many verdicts are right of any three of the seeds."""
    (truth,) = ablations[0].parents[2].glob("datasets/far_cue/*/annotations/instances_val.json")
    evaluator = ReplicateEvaluator(read_annotations(truth))
    runs = sorted(path for ablation in ablations for path in ablation.glob(f"runs/*/*/{PREDICTIONS}"))
    files: dict[str, dict[int, Path]] = {}
    for path in runs:
        arm, seed = path.parts[-3:-1]
        files.setdefault(arm, {})[int(seed.removeprefix("seed-"))] = path
    reads = {arm: {seed: partial(read_results, path) for seed, path in found.items()} for arm, found in files.items()}
    scored = score_runs(evaluator, reads, weightings(evaluator.num_images))
    trios = list(combinations(sorted(scored[BASELINE]), SEEDS))
    right = 0
    for trio in trios:
        chosen = {
            arm: {seed: found[seed]._replace(values=found[seed].values[:, :1]) for seed in trio}
            for arm, found in scored.items()
        }
        level = next_level([], [SEEDS], SEEDS).level  # of an ablation's first look
        said = judge(chosen, [MAIN], BASELINE, num_images=evaluator.num_images, level=level)
        right += _right(said.comparisons)
    print(f"right in {right} of {len(trios)} choices of three of the {len(scored[BASELINE])} seeds")


def _seconds(folder: Path, given: list[str], threads: str) -> tuple[float, float]:
    """Processor seconds of an ablation and all its runs, and those of the clock."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, ABLATE, *given],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return processor, time.monotonic() - start


def _right(verdicts: Sequence[Comparison]) -> bool:
    return all(one.verdict.kind == "better" for one in verdicts)


def _told(one: Comparison) -> str:
    main = one.differences[0]
    estimate, low, high = (signed(value) for value in (main.estimate, main.low, main.high))
    return f"{one.arm} {one.verdict.kind}, {estimate} [{low}, {high}]"
