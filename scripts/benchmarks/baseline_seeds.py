"""More seeds for the baseline than for the arms, at equal cost: ``python scripts/benchmark.py baseline_seeds``.

Where the variances are known, a baseline with about the root of the number of arms times as many runs makes all
differences surest. Here they are estimated from the few runs that there are. Only seeds vary, as on very many images.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from detfuse.statistics.dunnett import Family, critical_values
from detfuse.statistics.intervals import LEVEL
from detfuse.statistics.noise import between, correlation, moderated
from detfuse.statistics.simulation import Cell, Noise

Floats = NDArray[np.float64]
DESIGNS = {5: ((3, 3), (7, 2), (4, 4), (8, 3), (5, 5), (9, 4)), 8: ((3, 3), (10, 2), (4, 4), (11, 3))}
"""Arms, the baseline included -> seeds of the baseline and of each other arm; two after one another cost the same."""
NOISES: tuple[Noise, ...] = ("equal", "1 : 1.5 : 2", "one arm 3", "baseline 3", "every second 3", "all arms 3")
CORRELATIONS = (0.0, 0.25, 0.5)
EFFECT = 2.0  # standard deviations between seeds


def baseline_seeds(repetitions: int | str = 4000) -> None:
    """Power of designs of equal cost, and the worst rate of false verdicts over all kinds of noise."""
    told = " | ".join(f"found %, correlation {alike:g}" for alike in CORRELATIONS)
    print(f"| arms | runs | seeds of the baseline | of each other arm | {told} | false verdicts %, worst |")
    print("|--:|--:|--:|--:|" + "--:|" * (len(CORRELATIONS) + 1))
    for arms, designs in DESIGNS.items():
        for base, others in designs:
            found = {
                (noise, alike): _rates(Cell(others, arms, noise=noise, correlation=alike), base, int(repetitions))
                for noise, alike in product(NOISES, CORRELATIONS)
            }
            power = " | ".join(f"{100 * found['equal', alike][1]:.0f}" for alike in CORRELATIONS)
            worst = 100 * max(false for false, _ in found.values())
            print(f"| {arms} | {base + (arms - 1) * others} | {base} | {others} | {power} | {worst:.1f} |", flush=True)


def _rates(cell: Cell, base_seeds: int, repetitions: int) -> tuple[float, float]:
    """False verdicts, and power for the last arm."""
    rng = np.random.default_rng([cell.arms, cell.seeds, base_seeds, NOISES.index(cell.noise)])
    shape = (repetitions, cell.arms, base_seeds)
    common = np.sqrt(cell.correlation) * rng.standard_normal((repetitions, 1, base_seeds))
    scores = (common + np.sqrt(1 - cell.correlation) * rng.standard_normal(shape)) * cell.deviations[:, None]
    difference, half = _interval(scores[:, 0], scores[:, 1:, : cell.seeds])
    effect = EFFECT * cell.deviations[-1]
    return float((abs(difference) > half).any(1).mean()), float((difference[:, -1] + effect > half[:, -1]).mean())


def _interval(baseline: Floats, arms: Floats) -> tuple[Floats, Floats]:
    """Differences and half their intervals: as the judge's, but seeds without a pair count where seeds share little.

    Args:
        baseline: (R, seeds) scores.
        arms: (R, K, fewer seeds).
    """
    pairs, seeds = arms.shape[1:]
    paired = baseline[:, None, :seeds]
    alone, all_lend = np.full(pairs, seeds - 1.0), np.ones(pairs, bool)
    found = between(
        moderated((arms - paired).var(-1, ddof=1), alone, all_lend),
        arms.var(-1, ddof=1),
        alone,
        all_lend,
        baseline.var(-1, ddof=1)[:, None] * seeds / baseline.shape[1],  # of its mean, as if it had the arms' seeds
        baseline.shape[1] - 1.0,
        correlation(np.concatenate([paired, arms], axis=1)),
        seeds,
    )
    base = (1 - found.apart_share) * paired.mean(-1) + found.apart_share * baseline.mean(-1)[:, None]
    half = critical_values(Family(pairs), found.freedom, LEVEL) * np.sqrt(found.variance / seeds)
    return arms.mean(-1) - base, half
