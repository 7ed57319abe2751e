"""``compare``: two sides of COCO result files, from whatever framework, with intervals and a verdict."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from detfuse.annotations import Annotations, Results
from detfuse.cli.settings import CompareSettings
from detfuse.errors import UserError
from detfuse.evaluation import read_annotations, read_results
from detfuse.evaluation.ceiling import ceiling
from detfuse.evaluation.engines import MAX_DETECTIONS
from detfuse.evaluation.replicates import ReplicateEvaluator
from detfuse.evaluation.scoring import score_runs
from detfuse.files.text import write_json, write_text
from detfuse.runs.invocation import Invocation
from detfuse.runs.outputs import note_made, require_folder
from detfuse.statistics.comparison import Statistics, judge, weightings
from detfuse.statistics.records import Comparison, Difference, Score
from detfuse.statistics.verdict import Subject
from detfuse.words import points, ruled, signed, with_ends

SHOWN_CLASSES = 20


def run(invocation: Invocation) -> None:
    """Print scores, differences with their intervals, and the verdict; write them into ``output`` if it is given."""
    settings = CompareSettings.of(invocation.config)
    sides = {"a": _paths(settings.a), "b": _paths(settings.b)}
    annotations = Path(settings.annotations).expanduser()
    _check_files(sides, annotations)
    folder = None
    if settings.output is not None:
        folder = require_folder(Path(settings.output).expanduser(), files=["comparison.json", "comparison.csv"])
    truth = read_annotations(annotations)
    counts: dict[Path, int] = {}
    readers = {
        side: {seed: partial(_read, path, counts) for seed, path in enumerate(paths)} for side, paths in sides.items()
    }
    evaluator = ReplicateEvaluator(truth)
    weights = weightings(evaluator.num_images)
    runs = score_runs(evaluator, readers, weights, named=lambda side, seed: str(sides[side][seed]))
    subject: Subject = "models" if len(sides["a"]) == 1 else "arms"
    results = judge(
        runs,
        evaluator.metrics,
        "b",
        equivalence=settings.equivalence,
        subject=subject,
        num_images=evaluator.num_images,
    )
    print(_header(sides, annotations, truth, counts), _text(results), sep="\n\n")
    if folder is not None:
        write_json(folder / "comparison.json", asdict(results))
        write_text(folder / "comparison.csv", _csv(results))
        note_made(folder / "comparison.json", folder / "comparison.csv")
        print(f"\nwritten to {folder}")


def _paths(given: str | Sequence[str]) -> list[Path]:
    return [Path(text).expanduser() for text in ([given] if isinstance(given, str) else given)]


def _check_files(sides: Mapping[str, Sequence[Path]], annotations: Path) -> None:
    """What can be said before anything is read, all together."""
    problems = []
    for side, paths in sides.items():
        if not paths:
            problems.append(f"{side}=[]: give at least one file of predictions")
        real = [path.resolve() for path in paths]
        twice = [path for i, path in enumerate(paths) if real[i] in real[:i]]
        problems += [f"{side}: {path} is given twice; each file is one seed" for path in dict.fromkeys(twice)]
    if len(sides["a"]) != len(sides["b"]):
        problems.append(
            f"a has {len(sides['a'])} files and b has {len(sides['b'])}: they are paired in the order given, "
            "one pair per seed"
        )
    named = [("annotations", annotations), *((side, path) for side, paths in sides.items() for path in paths)]
    for name, path in dict.fromkeys(named):
        if not path.is_file():
            problems.append(f"{name}: {path} {'is a folder, give a file' if path.is_dir() else 'does not exist'}")
    if problems:
        raise UserError("\n  ".join([f"{len(problems)} mistakes:", *problems]) if len(problems) > 1 else problems[0])


def _read(path: Path, counts: dict[Path, int]) -> Results:
    results = read_results(path)
    counts[path] = len(results)
    return results


def _header(
    sides: Mapping[str, Sequence[Path]], annotations: Path, truth: Annotations, counts: Mapping[Path, int]
) -> str:
    objects = int(truth.counted.sum())
    lines = [f"annotations  {annotations}: {len(truth):,} images, {objects:,} objects"]
    for side, paths in sides.items():
        for seed, path in enumerate(paths):
            name = side if len(paths) == 1 else f"{side}, seed {seed}"
            lines.append(f"{name:<11}  {path}: {counts[path]:,} detections")
    if note := ceiling(truth, MAX_DETECTIONS[-1]):
        lines.append(f"ceiling      {note}")
    return "\n".join(lines)


def _text(results: Statistics) -> str:
    (comparison,) = results.comparisons
    scores = {(score.arm, score.metric): score for score in results.scores}
    summary = [d for d in comparison.differences if "/" not in d.metric]
    classes = [d for d in comparison.differences if "/" in d.metric and d.estimate is not None]
    classes.sort(key=lambda difference: -abs(difference.estimate or 0.0))
    lines = ["COCO AP in points of 100", *_table(summary, scores, "metric")]
    lines += ["", "per class, most changed first (exploratory: not corrected for the number of classes)"]
    lines += _table(classes[:SHOWN_CLASSES], scores, "mAP of")
    if len(classes) > SHOWN_CLASSES:
        lines.append(f"... and {len(classes) - SHOWN_CLASSES} more: output=DIR writes all of them")
    undefined = sum(difference.estimate is None for difference in comparison.differences)
    if undefined:
        numbers = "1 number is" if undefined == 1 else f"{undefined} numbers are"
        lines.append(f"{numbers} undefined: the annotations have no such object")
    main = comparison.differences[0]
    return "\n".join([*lines, "", f"mAP: {main.method}", comparison.verdict.text])


def _table(differences: Sequence[Difference], scores: Mapping[tuple[str, str], Score], title: str) -> list[str]:
    cells = [
        [
            difference.metric.partition("/")[2] or difference.metric,
            _score(scores["a", difference.metric]),
            _score(scores["b", difference.metric]),
            *_with_interval(difference),
            "n/a" if difference.p is None else "< 0.001" if difference.p < 0.001 else f"{difference.p:.3f}",
        ]
        for difference in differences
    ]
    return ruled([title, "a", "b", "a - b", "95 % interval", "p"], cells)


def _with_interval(difference: Difference) -> tuple[str, str]:
    if difference.estimate is None or difference.low is None or difference.high is None:
        return signed(difference.estimate), "n/a"
    estimate, low, high = with_ends(difference.estimate, difference.low, difference.high)
    return estimate, f"{low} to {high}"


def _score(score: Score) -> str:
    """Mean and, over seeds, standard deviation."""
    return points(score.mean) + ("" if score.deviation is None else f" ± {points(score.deviation)}")


_COLUMNS: dict[str, Callable[[Difference], Any]] = {
    "difference": lambda difference: difference.estimate,
    "low": lambda difference: difference.low,
    "high": lambda difference: difference.high,
    "se_seeds": lambda difference: difference.se_seeds,
    "se_images": lambda difference: difference.se_images,
    "p": lambda difference: difference.p,
    "p_corrected": lambda difference: difference.p_corrected,
    "p_equivalent": lambda difference: difference.p_equivalent,
    "p_equivalent_corrected": lambda difference: difference.p_equivalent_corrected,
    "method": lambda difference: difference.method,
}


def _csv(results: Statistics) -> str:
    """One line per metric, fractions; what is undefined is empty."""
    comparison: Comparison = results.comparisons[0]
    scores = {(score.arm, score.metric): score for score in results.scores}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["metric", "a", "a_deviation", "b", "b_deviation", *_COLUMNS])
    for difference in comparison.differences:
        both = [scores[side, difference.metric] for side in ("a", "b")]
        values = [value for score in both for value in (score.mean, score.deviation)]
        writer.writerow([difference.metric, *values, *(column(difference) for column in _COLUMNS.values())])
    return text.getvalue()
