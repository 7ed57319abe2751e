"""The quickstart's verdict, again and again: ``python scripts/benchmark.py quickstart [SETS OF SEEDS]``."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from detfuse.ablation.storage import read_comparisons
from detfuse.statistics.records import Comparison
from detfuse.words import signed

ABLATE = Path(__file__).parents[1] / "ablate.py"
SEEDS = 3  # of a set
WAYS = {"1 thread": ("1", "[]"), "2 threads": ("2", "[]"), "1 thread, looks after 2 and 3 seeds": ("1", "[2,3]")}


def quickstart(sets: str = "3") -> None:
    """Repeat the quickstart with sets of seeds that share none, each with 1 and 2 threads, and with looks.

    A verdict is right if both fused arms are better than the unfused one, which the data make so. Folders and data are
    made in a temporary folder, and go with it.
    """
    right = []
    print("| seeds | way | verdicts: AP points [95 %] | processor, min | clock, min |\n|---|---|---|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for first in range(0, SEEDS * int(sets), SEEDS):
            seeds = list(range(first, first + SEEDS))
            for way, (threads, looks) in WAYS.items():
                name = f"seeds-{first}-{list(WAYS).index(way)}"
                given = [f"seeds={seeds}".replace(" ", ""), f"looks={looks}", f"name={name}"]
                processor, clock = _seconds(Path(folder), given, threads)
                verdicts = read_comparisons(Path(folder) / "runs" / "ablations" / name)
                right.append(all(one.verdict.kind == "better" for one in verdicts))
                told = "; ".join(_told(one) for one in verdicts)
                print(f"| {seeds} | {way} | {told} | {processor / 60:.1f} | {clock / 60:.1f} |", flush=True)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"right in {sum(right)} of {len(right)} ({os.cpu_count()} cores, load average {load} at the end)")


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


def _told(one: Comparison) -> str:
    main = one.differences[0]
    estimate, low, high = (signed(value) for value in (main.estimate, main.low, main.high))
    return f"{one.arm} {one.verdict.kind}, {estimate} [{low}, {high}]"
