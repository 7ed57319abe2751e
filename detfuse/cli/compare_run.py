"""``compare``: two sides of COCO result files, from whatever framework, with intervals and a verdict."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from detfuse.cli.jobs import Invocation
from detfuse.cli.outputs import require_folder
from detfuse.config import CompareSettings
from detfuse.errors import InputError, UserError
from detfuse.evaluation.table import aligned
from detfuse.files.text import write_json, write_text
from detfuse.statistics.comparison import Results, compare_runs
from detfuse.statistics.records import Comparison, Difference, Score

SHOWN_CLASSES = 20


def run(invocation: Invocation) -> None:
    """Print scores, differences with their intervals, and the verdict; write them into ``output`` if it is given."""
    settings = CompareSettings(**{name: invocation.config[name] for name in CompareSettings.__dataclass_fields__})
    sides = {"a": _paths(settings.a), "b": _paths(settings.b)}
    annotations = Path(settings.annotations).expanduser()
    _check_files(sides, annotations)
    folder = None if settings.output is None else require_folder(Path(settings.output).expanduser())
    truth = _ground_truth(annotations)
    counts: dict[Path, int] = {}
    readers = {
        side: {seed: partial(_rows, path, counts) for seed, path in enumerate(paths)} for side, paths in sides.items()
    }
    one_each = len(sides["a"]) == 1
    results = compare_runs(
        truth,
        readers,
        "b",
        equivalence=settings.equivalence,
        subject="models" if one_each else "arms",
        named=lambda side, seed: str(sides[side][seed]),
    )
    print(_header(sides, annotations, truth, counts), _text(results), sep="\n\n")
    if folder is not None:
        write_json(folder / "comparison.json", asdict(results))
        write_text(folder / "comparison.csv", _csv(results))
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


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        raise InputError(f"no JSON: {error}") from None


def _ground_truth(path: Path) -> Mapping[str, Any]:
    try:
        content = _read(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected COCO annotations (images, categories, annotations), got a list")
    return content


def _rows(path: Path, counts: dict[Path, int]) -> Sequence[Mapping[str, Any]]:
    content = _read(path)
    if not isinstance(content, list):
        raise InputError("expected a list of COCO result rows {image_id, category_id, bbox, score}")
    wrong = next((i for i, row in enumerate(content) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise InputError(f"row {wrong} is {content[wrong]!r}, expected {{image_id, category_id, bbox, score}}")
    counts[path] = len(content)
    return content


def _header(
    sides: Mapping[str, Sequence[Path]], annotations: Path, truth: Mapping[str, Any], counts: Mapping[Path, int]
) -> str:
    objects = sum(not annotation.get("iscrowd") for annotation in truth["annotations"])
    lines = [f"annotations  {annotations}: {len(truth['images']):,} images, {objects:,} objects"]
    for side, paths in sides.items():
        for seed, path in enumerate(paths):
            name = side if len(paths) == 1 else f"{side}, seed {seed}"
            lines.append(f"{name:<11}  {path}: {counts[path]:,} detections")
    return "\n".join(lines)


def _text(results: Results) -> str:
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
        lines.append(f"{undefined} numbers are undefined: the annotations have no such object")
    main = comparison.differences[0]
    return "\n".join([*lines, "", f"mAP: {main.method}", comparison.verdict.text])


def _table(differences: Sequence[Difference], scores: Mapping[tuple[str, str], Score], title: str) -> list[str]:
    cells = [
        [
            difference.metric.partition("/")[2] or difference.metric,
            _score(scores["a", difference.metric]),
            _score(scores["b", difference.metric]),
            _signed(difference.estimate),
            f"{_signed(difference.low)} to {_signed(difference.high)}" if difference.low is not None else "n/a",
            "n/a" if difference.p is None else "< 0.001" if difference.p < 0.001 else f"{difference.p:.3f}",
        ]
        for difference in differences
    ]
    return aligned([title, "a", "b", "a - b", "95 % interval", "p"], cells, left=1)


def _score(score: Score) -> str:
    """Mean and, over seeds, standard deviation."""
    if score.mean is None:
        return "n/a"
    spread = f" ± {100 * score.deviation:.2f}" if score.deviation is not None else ""
    return f"{100 * score.mean:.2f}{spread}"


def _signed(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:+.2f}"


_COLUMNS: dict[str, Callable[[Difference], Any]] = {
    "difference": lambda difference: difference.estimate,
    "low": lambda difference: difference.low,
    "high": lambda difference: difference.high,
    "se_seeds": lambda difference: difference.se_seeds,
    "se_images": lambda difference: difference.se_images,
    "p": lambda difference: difference.p,
    "p_holm": lambda difference: difference.p_holm,
    "p_equivalent": lambda difference: difference.p_equivalent,
    "p_equivalent_holm": lambda difference: difference.p_equivalent_holm,
    "method": lambda difference: difference.method,
}


def _csv(results: Results) -> str:
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
