"""The nouns of the laboratory: what its rooms hand to one another, all of it plain data.

An ablation lives in one folder::

    plan.yaml                  what was planned; a changed plan is refused there
    runs/<arm>/seed-<n>/       a run folder of ``train``, and beside its files state.json, cost.json, log.txt; of an arm
                               that shares another's training its metrics.json and predictions.json alone
    comparison.json            the statistics
    looks.json                 every conclusion that was drawn; only ever appended to
    report/                    report.html, report.md, tables as CSV

AP and its differences are fractions (0..1) here; people are shown points (0..100).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from detfuse.statistics.records import VerdictKind

BudgetKind = Literal["free", "params", "flops"]
TOLERANCE = 0.02
"""How far from the baseline's cost, as a share of it, a budget still counts an arm as equally expensive."""

State = Literal["waiting", "running", "finished", "failed", "killed", "out of memory"]


@dataclass(frozen=True)
class Arm:
    """One of the things compared.

    Attributes:
        name: ``[A-Za-z0-9._-]+``; names the folder.
        factors: factor (an override's key, such as ``neck``) -> this arm's level.
        overrides: Hydra overrides beyond those common to all arms, the budget's and equalisation's included.
        notes: what was done to it besides (filled with plain blocks, budget not reached ...), for the report.
    """

    name: str
    factors: Mapping[str, Any]
    overrides: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """An ablation, resolved: nothing about it is left to chance or to defaults that may change.

    Attributes:
        name: of the ablation.
        arms: the baseline first.
        seeds: of every arm.
        common: overrides that all arms share.
        budget: what is held equal to the baseline.
        equalise: what arms bring along and was set equal (``norm``, ``block``, ``levels``, ``scale``).
        allow: differences that were declared harmless.
        equivalence: a difference of AP (a fraction) that nobody would care about.
        covariates: arm -> what the choice brings along: setting -> (baseline's, this arm's).
        together: arms may differ from the baseline in several things at once, which then are one choice.
        things: arm -> what it differs in from the baseline, such as ``neck`` and ``operator``.
        remarks: what has to be known of all arms alike, such as a warm-up that fills the run.
        start: arm -> its scale at the start: map that the head reads (``P3``), or output of the head -> standard
            deviation on the first batch; empty if that was not measured.
        threads: of every run on the CPU, of which results depend by rounding; None where it was not decided yet.
        shares: arm -> the arm whose trained detectors it scores again, where it differs only in what comes after
            training; the others are trained.
        looks: numbers of seeds after which a verdict is drawn and decided arms stop; empty: once, after all seeds.
        all_pairs: the arms are compared with one another, too.
        typed: settings of the command that made it, for whoever wants to repeat it; empty if it was not kept.
    """

    name: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    common: tuple[str, ...]
    budget: BudgetKind = "free"
    equalise: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    equivalence: float = 0.005
    covariates: Mapping[str, Mapping[str, tuple[str, str]]] = field(default_factory=dict)
    together: bool = False
    things: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    start: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    threads: int | None = None
    shares: Mapping[str, str] = field(default_factory=dict)
    looks: tuple[int, ...] = ()
    all_pairs: bool = False
    typed: tuple[str, ...] = ()

    @property
    def baseline(self) -> Arm:
        """What all other arms are compared with."""
        return self.arms[0]


@dataclass(frozen=True)
class LookVerdict:
    """What a look said of an arm: the verdict, and the difference with the ends of its interval."""

    kind: VerdictKind
    text: str
    estimate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Look:
    """One conclusion drawn from the runs of an ablation; an entry of ``looks.json``.

    Attributes:
        number: 1 is the first.
        num_seeds: of which all arms that were still open had been tried.
        runs: digest of what the runs predicted: a conclusion from the same runs is the same look.
        level: probability that any of its verdicts is false; that of all looks together stays below 5 %.
        planned: whether it was planned.
        verdicts: arm -> what was said of it.
        closed: arms that need no more seeds: decided, or without a chance to be.
    """

    number: int
    num_seeds: int
    runs: str
    level: float
    planned: bool
    verdicts: Mapping[str, LookVerdict]
    closed: tuple[str, ...]


@dataclass(frozen=True)
class Timing:
    """What a latency was measured on.

    Attributes:
        seed: of the run whose last checkpoint it was.
        checkpoint: SHA-256 of that file: another one is to be measured again.
        device: ``cpu``, or the name of a GPU.
        threads: of the CPU.
        precision: as ``trainer.precision`` names it.
        num_images: validation images, one at a time.
        image_sizes: (height, width) that they have, padded, the smallest first.
        rounds: how often all of them were timed.
    """

    seed: int
    checkpoint: str
    device: str
    threads: int
    precision: str
    num_images: int
    image_sizes: tuple[tuple[int, int], ...]
    rounds: int


@dataclass(frozen=True)
class DetectorCost:
    """What one detector costs; ``cost.json`` of a run.

    Attributes:
        parameters: of the whole detector.
        neck_parameters: of the neck.
        flops: of inference up to the candidates on one image of ``image_size``: 2 per multiply-add of convolutions and
            matrix products.
        image_size: (height, width), padded, of the largest image that inference sees.
        latency_ms: median of one image's inference up to the detections; None if it was not measured.
        latency_low: lower quartile of it; None if its spread was not measured: then it orders nothing.
        latency_high: upper quartile, likewise.
        timing: what the latency was measured on; None if it was not, or by a version that did not say.
        untimed: why no latency was measured; empty otherwise.
    """

    parameters: int
    neck_parameters: int
    flops: int
    image_size: tuple[int, int]
    latency_ms: float | None
    latency_low: float | None = None
    latency_high: float | None = None
    timing: Timing | None = None
    untimed: str = ""


@dataclass(frozen=True)
class Run:
    """One arm under one seed.

    Attributes:
        arm: its name.
        seed: of weights, data order and augmentation.
        folder: the run folder.
        state: see :data:`State`.
        reason: why it did not finish; empty otherwise.
        seconds: wall time so far.
        shares: the arm whose training of this seed it shares; empty if it was trained itself.
    """

    arm: str
    seed: int
    folder: Path
    state: State
    reason: str = ""
    seconds: float = 0.0
    shares: str = ""

    @property
    def trained_in(self) -> Path:
        """The folder that holds its weights."""
        return self.folder if not self.shares else self.folder.parents[1] / self.shares / self.folder.name
