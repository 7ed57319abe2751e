"""Where metrics are written: ``metrics.csv`` and a TensorBoard log, both in the run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from detfuse.errors import InputError
from detfuse.files.run_files import METRICS_CSV
from detfuse.files.text import append_text, as_line, read_table, write_text

_KEYS = ("epoch", "step")


class MetricsCsv(Logger):
    """Appends each row to ``<run folder>/metrics.csv`` as it comes; a resumed run continues the file.

    Rows are sparse: a training row leaves the validation columns empty and the other way round. Lightning's CSVLogger
    deletes the file of the run it resumes. Lines that were cut off or damaged are told, and left out.

    Args:
        run_dir: run folder.
    """

    file_name = METRICS_CSV  # no option: the monitor of an ablation and its report read it

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(run_dir) / self.file_name
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """Lightning asks for it."""
        return self.path.stem

    @property
    def version(self) -> str:
        """There is one file per run."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The resolved configuration has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row.

        Raises:
            ValueError: if the file that should be continued has no steps.
        """
        step = 0 if step is None else step
        row = {**metrics, "step": step}
        columns = self._continued(row) if self._columns is None else self._columns
        added = [name for name in row if name not in columns]
        if added:
            columns = [*columns, *added]
            self._rewrite(columns, read_table(self.path).rows)
        self._columns = columns
        append_text(self.path, as_line(row.get(name, "") for name in columns))

    def _continued(self, first: Mapping[str, float]) -> list[str]:
        """Keep the rows before the first new one: later ones are of steps that a resumed run takes again."""
        found = read_table(self.path)
        columns = list(_KEYS) if not found.columns and not found.damaged else found.columns
        if "step" not in columns:
            raise InputError(f"{self.path} is no table of metrics, it has no column named step: move it away")
        places = [(row, _place(row)) for row in found.rows]
        begins = _place(first)
        assert begins is not None
        self._rewrite(columns, [row for row, place in places if place is not None and place < begins])
        unread = [as_line(row.values()) for row, place in places if place is None]
        for line in (*found.damaged, *unread, *filter(None, [found.cut])):
            print(f"{self.path}: left out a line that was cut off or damaged: {line.strip()[:100]!r}", flush=True)
        return columns

    def _rewrite(self, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
        lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
        write_text(self.path, "".join(map(as_line, lines)))


def _place(row: Mapping[str, Any]) -> tuple[float, bool] | None:
    """Where a row comes in its file, None if it has no step: by its step, and first what is no row of training.

    A validation is counted by the steps that were taken before it, a row of training by those before its own.
    """
    try:
        step = float(row["step"])
    except ValueError:
        return None
    return step, any(key.startswith("train/") and value != "" for key, value in row.items())


def tensorboard(run_dir: str | os.PathLike[str]) -> Logger:
    """TensorBoard log of metrics and pictures, in the run folder's ``tensorboard``.

    Args:
        run_dir: run folder.
    """
    return TensorBoardLogger(os.fspath(run_dir), name="tensorboard", version="", default_hp_metric=False, flush_secs=30)
