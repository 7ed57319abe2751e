"""What a bank of past ablations could add to a verdict at the most: ``python scripts/benchmark.py bank``.

An interval ``difference ± h(s)`` may depend in any way on the standard deviation ``s`` that an ablation shows, and on
the one that a bank says. Whatever the bank, verdicts are false in 5 % at most only if ``h`` holds the level for every
noise that this ablation may have. Of all such ``h``, linear programming finds the one that finds most where the bank is
exactly right: no method that rests on a bank and holds the level can find more (as in Lehmann and Stein, Annals of
Mathematical Statistics 19, 1948, https://doi.org/10.1214/aoms/1177730146).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import eye_array, kron
from scipy.special import chdtr, ndtr

from detfuse.statistics.dunnett import MOST_FREEDOM, Family, critical, p_value
from detfuse.statistics.intervals import LEVEL
from detfuse.statistics.noise import expected_freedom

Floats = NDArray[np.float64]
SEEDS, ARMS = 3, (2, 5, 8)
EFFECT = 2**0.5  # what is to be found, in standard deviations of one seed's difference: two of one arm
WRONG = (1.0, 1.25, 1.5, 2.0, 3.0)  # how many times as noisy as the bank says an ablation may be
LENT = (4.0, 8.0, 20.0)  # degrees of freedom of a bank that is believed
SHOWN = np.geomspace(0.03, 30, 80)  # s, by the noise of the bank
HALF = np.geomspace(0.2, 60, 110)  # h, by the bank's standard error of a difference


def bank() -> None:
    """Power of three seeds with and without a bank, and false verdicts where it does not fit."""
    told = " | ".join(f"at most {wrong:g} times" for wrong in WRONG[1:])
    print(
        "Power in % where the bank is right, of the best interval that holds the level where the ablation is noisier by"
    )
    print(f"| arms | alone | nothing: the noise is known | {told} |\n|--:|--:|--:|" + "--:|" * len(WRONG[1:]))
    for arms in ARMS:
        found = [f"{100 * most(arms, wrong):.0f}" for wrong in WRONG[1:]]
        known = float(ndtr(EFFECT * SEEDS**0.5 - critical(Family(arms - 1), MOST_FREEDOM, LEVEL)))
        print(f"| {arms} | {100 * alone(arms):.0f} | {100 * known:.0f} | {' | '.join(found)} |")
    print("\nA bank that is believed, as so many degrees of freedom, in 5 arms: power where it is right, and false")
    print("verdicts in % where the ablation is so many times as noisy")
    print("| degrees of freedom | power |" + "".join(f" {wrong:g} |" for wrong in WRONG))
    print("|--:|--:|" + "--:|" * len(WRONG))
    for lent in LENT:
        power, false = believed(lent)
        print(f"| {lent:g} | {100 * power:.0f} | {' | '.join(f'{100 * rate:.1f}' for rate in false)} |")


def alone(arms: int) -> float:
    """Power of the judge's t by the degrees of freedom of what equally noisy arms lend."""
    family, freedom = Family(arms - 1), expected_freedom(SEEDS, arms - 1)
    half = critical(family, freedom, LEVEL) * SHOWN
    return float(_shown(freedom, 1.0) @ ndtr(EFFECT * SEEDS**0.5 - half))


def most(arms: int, wrong: float) -> float:
    """The most that any interval finds where the bank is right, if it holds the level up to so many times its noise."""
    family, freedom = Family(arms - 1), expected_freedom(SEEDS, arms - 1)
    noises = np.geomspace(0.1, wrong, 30)
    false = np.array([np.outer(_shown(freedom, noise), _exceeds(family, HALF / noise)).ravel() for noise in noises])
    power = np.outer(_shown(freedom, 1.0), ndtr(EFFECT * SEEDS**0.5 - HALF)).ravel()
    each = kron(eye_array(len(SHOWN)), np.ones((1, len(HALF))))  # of every s, all chances of some h
    found = linprog(-power, false, np.full(len(noises), LEVEL), each, np.ones(len(SHOWN)), (0, 1), "highs")
    return float(-found.fun)


def believed(lent: float) -> tuple[float, list[float]]:
    """Power where a bank is right whose variance is averaged with the ablation's own, and false verdicts where not."""
    family, freedom = Family(4), expected_freedom(SEEDS, 4)
    half = critical(family, freedom + lent, LEVEL) * np.sqrt((lent + freedom * SHOWN**2) / (lent + freedom))
    power = _shown(freedom, 1.0) @ ndtr(EFFECT * SEEDS**0.5 - half)
    return float(power), [float(_shown(freedom, noise) @ _exceeds(family, half / noise)) for noise in WRONG]


def _shown(freedom: float, noise: float) -> Floats:
    """Probability of every ``s`` where the true one is ``noise``."""
    edges = np.concatenate([[0.0], np.sqrt(SHOWN[1:] * SHOWN[:-1]), [np.inf]])
    return np.diff(chdtr(freedom, freedom * (edges / noise) ** 2))


def _exceeds(family: Family, t: Floats) -> Floats:
    """Probability that the largest of a family's absolute differences exceeds so many true standard errors."""
    return np.array([p_value(float(value), family, MOST_FREEDOM) for value in t])
