"""What a person sees while an ablation runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from detfuse.ablation.records import Run
from detfuse.ablation.run.runner import score_of
from detfuse.files.run_files import LOG, METRICS_CSV
from detfuse.files.text import read_table
from detfuse.words import clock, points, printable

_STYLES = {"finished": "green", "running": "bold", "waiting": "dim"}  # the rest went wrong
_UNKNOWN = "-"
_points = partial(points, unknown=_UNKNOWN)


@dataclass(frozen=True)
class _Epochs:
    """How far a run is, by its metrics.csv."""

    done: int
    score: float | None


class Monitor:
    """Shows states, epochs, AP and the time left; the time is that of the runs so far, or the prediction's.

    Args:
        num_epochs: of each arm's runs.
        predicted: seconds of each arm's run.
        slots: runs at a time.
        console: where to; a terminal gets the live table.
    """

    def __init__(
        self,
        num_epochs: Mapping[str, int],
        predicted: Mapping[str, float],
        *,
        slots: int = 1,
        console: Console | None = None,
    ) -> None:
        self.num_epochs = num_epochs
        self.predicted = predicted
        self.slots = slots
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._said: dict[Path, tuple[str, int]] = {}
        self._read: dict[Path, tuple[tuple[int, int], _Epochs]] = {}
        self._begun: dict[Path, tuple[int, float]] = {}  # epochs and seconds that a run had when it was first seen

    def __enter__(self) -> Monitor:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, runs: Sequence[Run]) -> None:
        """Show the runs as they stand."""
        epochs = {run.folder: self._epochs(run.folder / METRICS_CSV) for run in runs if run.state != "waiting"}
        for run in (run for run in runs if run.state in ("waiting", "running")):
            known = epochs.get(run.folder) or self._epochs(run.folder / METRICS_CSV)
            if known.done < self._begun.get(run.folder, (known.done + 1, 0.0))[0]:  # first seen, or begun again
                self._begun[run.folder] = known.done, run.seconds
        if self._live is not None:
            self._live.update(Group(self._table(runs, epochs), Text(self._summary(runs, epochs))), refresh=True)
            return
        for run in runs:
            self._say_changes(run, runs, epochs)

    def _epochs(self, metrics: Path) -> _Epochs:
        """What a file says, read again only when it has changed: runs are looked at twice a second, for days."""
        try:
            state = metrics.stat()
        except OSError:
            return _Epochs(0, None)
        stamp = (state.st_mtime_ns, state.st_size)
        if metrics not in self._read or self._read[metrics][0] != stamp:
            self._read[metrics] = (stamp, _epochs(metrics))
        return self._read[metrics][1]

    def _table(self, runs: Sequence[Run], epochs: Mapping[Path, _Epochs]) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("arm", "seed", "state", "epoch", "AP", "time", "left"):
            table.add_column(name, justify="left" if name in ("arm", "state") else "right", no_wrap=True)
        for run in runs:
            known = epochs.get(run.folder, _Epochs(0, None))
            epoch = f"{known.done}/{self.num_epochs.get(run.arm, '?')}" if run.folder in epochs else _UNKNOWN
            left = clock(self._left(run, known)) if run.state in ("running", "waiting") else ""
            time = clock(run.seconds) if run.seconds else _UNKNOWN
            style = _STYLES.get(run.state, "red")
            cells = (run.arm, str(run.seed), run.state, epoch, _points(_score(run, known)), time, left)
            table.add_row(*(Text(cell) for cell in cells), style=style)
        return table

    def _say_changes(self, run: Run, runs: Sequence[Run], epochs: Mapping[Path, _Epochs]) -> None:
        known = epochs.get(run.folder, _Epochs(0, None))
        now = (run.state, known.done if run.state == "running" else 0)
        if run.state == "waiting" or self._said.get(run.folder) == now:
            return
        first = run.folder not in self._said
        self._said[run.folder] = now
        name = f"{run.arm} seed {run.seed}"
        if run.state == "running":
            of = f"epoch {known.done}/{self.num_epochs.get(run.arm, '?')}"
            score = f"  AP {_points(known.score)}  left {clock(self._left(run, known))}" if known.done else ""
            self._print(f"{name}: {of}{score}" if not first or known.done else f"{name}: started")
        elif run.state == "finished":
            again = "was finished" if first else f"finished after {clock(run.seconds)}"
            self._print(f"{name}: {again}, AP {_points(score_of(run))}  ({self._summary(runs, epochs)})")
        else:
            self._print(f"{name}: {run.state}: {printable(run.reason)} (see {run.folder / LOG})")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False)

    def _summary(self, runs: Sequence[Run], epochs: Mapping[Path, _Epochs]) -> str:
        counts: dict[str, int] = {}
        for run in runs:
            counts[run.state] = counts.get(run.state, 0) + 1
        missing = sum(count for state, count in counts.items() if state not in _STYLES)
        left = sum(self._left(run, epochs.get(run.folder, _Epochs(0, None))) for run in runs) / max(self.slots, 1)
        text = f"{counts.get('finished', 0)} of {len(runs)} finished"
        return text + (f", {missing} missing" if missing else "") + (f", about {clock(left)} left" if left else "")

    def _left(self, run: Run, known: _Epochs) -> float:
        """Seconds by what the run does here: of one that was stopped and goes on, what it did before is no measure."""
        if run.state not in ("running", "waiting"):
            return 0.0
        total = max(self.num_epochs.get(run.arm, known.done), known.done, 1)
        done, seconds = self._begun.get(run.folder, (0, 0.0))
        spent = run.seconds - seconds
        each = spent / (known.done - done) if known.done > done else self.predicted.get(run.arm, 0.0) / total
        return max(each * (total - done) - spent, 0.0)


def _epochs(metrics: Path) -> _Epochs:
    """The validated epochs in a run's metrics.csv; a line that is being written is not one of them yet."""
    done, score = 0, None
    with contextlib.suppress(OSError, ValueError):
        for row in read_table(metrics).rows:
            if row.get("val/mAP"):
                done, score = int(float(row["epoch"])) + 1, float(row["val/mAP"])
    return _Epochs(done, score if score is not None and score >= 0 else None)


def _score(run: Run, known: _Epochs) -> float | None:
    return score_of(run) if run.state == "finished" else known.score
