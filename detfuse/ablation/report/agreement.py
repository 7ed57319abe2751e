"""Whether what a run says about itself agrees: its scores, computed again from its predictions, with its metrics.json.

Both are read, by different tables; files that were swapped, edited or scored on other images must not make two truths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from detfuse.ablation.records import Run
from detfuse.ablation.run.runner import RESULTS
from detfuse.errors import InputError
from detfuse.evaluation.metrics import UNDEFINED
from detfuse.files.plain import read_json
from detfuse.statistics.records import Score

_METRICS, _PREDICTIONS = RESULTS
_SAME = 1e-9  # engines agree to the last bit; this leaves room for another order of summation


class DisagreementError(InputError):
    """Runs whose files contradict one another; the message names each with both numbers."""


def require_agreement(runs: Sequence[Run], scores: Sequence[Score]) -> None:
    """Compare every finished run's scores with its own ``metrics.json``.

    Args:
        runs: finished.
        scores: of all arms and metrics, computed from the predictions.

    Raises:
        DisagreementError: naming arm, seed, metric, both numbers and both files of every run that disagrees.
    """
    problems = [problem for run in runs for problem in _problems(run, scores)]
    if problems:
        raise DisagreementError("\n".join(problems))


def _problems(run: Run, scores: Sequence[Score]) -> Iterator[str]:
    path = run.folder / _METRICS
    try:
        content = read_json(path)
        stored = {**content["stats"], **{f"mAP/{name}": row["AP"] for name, row in content["per_class"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{run.arm}, seed {run.seed}: {path} cannot be read as metrics ({error!r}); {_remedy(run)}"
        return
    for score in scores:
        if score.arm != run.arm or score.metric not in stored or run.seed not in score.per_seed:
            continue
        ours, theirs = _number(score.per_seed[run.seed]), _number(stored[score.metric])
        if not math.isclose(ours, theirs, rel_tol=0, abs_tol=_SAME):
            yield (
                f"{run.arm}, seed {run.seed}: {score.metric} is {theirs:.6f} in {path}, but {ours:.6f} by the "
                f"{_PREDICTIONS} beside it: one of them is another run's, or the annotations have changed since; "
                f"put the right files back, or {_remedy(run)}"
            )
            return


def _number(value: Any) -> float:
    """A score, undefined ones as they are stored; what is no number equals nothing."""
    if value is None:
        return UNDEFINED
    return float(value) if isinstance(value, int | float) else math.nan


def _remedy(run: Run) -> str:
    return f"delete {run.folder} and start the same command again"
