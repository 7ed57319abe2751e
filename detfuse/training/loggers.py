"""Where metrics are written: ``metrics.csv`` and a TensorBoard log, both in the run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from detfuse.errors import InputError
from detfuse.files.text import append_text, as_line, read_table, write_text

_KEYS = ("epoch", "step")


class MetricsCsv(Logger):
    """Appends each row to ``<run folder>/metrics.csv`` as it comes; a resumed run continues the file.

    Rows are sparse: a training row leaves the validation columns empty and the other way round. Lightning's CSVLogger
    deletes the file of the run it resumes. Lines that were cut off or damaged are told, and left out.

    Args:
        run_dir: run folder.
    """

    file_name = "metrics.csv"  # no option: the monitor of an ablation and its report read it

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
        columns = self._continued(step) if self._columns is None else self._columns
        added = [name for name in row if name not in columns]
        if added:
            columns = [*columns, *added]
            self._rewrite(columns, read_table(self.path).rows)
        self._columns = columns
        append_text(self.path, as_line(row.get(name, "") for name in columns))

    def _continued(self, step: int) -> list[str]:
        """Keep the rows before ``step``: later ones are of steps that a resumed run takes again."""
        found = read_table(self.path)
        columns = list(_KEYS) if not found.columns and not found.damaged else found.columns
        if "step" not in columns:
            raise InputError(f"{self.path} is no table of metrics, it has no column named step: move it away")
        steps = [_number(row["step"]) for row in found.rows]
        self._rewrite(columns, [row for row, at in zip(found.rows, steps, strict=True) if at is not None and at < step])
        unread = [as_line(row.values()) for row, at in zip(found.rows, steps, strict=True) if at is None]
        for line in (*found.damaged, *unread, *filter(None, [found.cut])):
            print(f"{self.path}: left out a line that was cut off or damaged: {line.strip()[:100]!r}", flush=True)
        return columns

    def _rewrite(self, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
        lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
        write_text(self.path, "".join(map(as_line, lines)))


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def tensorboard(run_dir: str | os.PathLike[str]) -> Logger:
    """TensorBoard log of metrics and pictures, in the run folder's ``tensorboard``.

    Args:
        run_dir: run folder.
    """
    return TensorBoardLogger(os.fspath(run_dir), name="tensorboard", version="", default_hp_metric=False, flush_secs=30)
