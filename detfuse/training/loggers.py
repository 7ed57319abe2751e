"""Where metrics are written: ``metrics.csv`` and a TensorBoard log, both in the run folder."""

from __future__ import annotations

import csv as csv_format
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

_KEYS = ("epoch", "step")


class MetricsCsv(Logger):
    """Appends each row to ``<run folder>/metrics.csv`` as it comes; a resumed run continues the file.

    Rows are sparse: a training row leaves the validation columns empty and the other way round. Lightning's CSVLogger
    deletes the file of the run it resumes.

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
        """Append one row."""
        step = 0 if step is None else step
        row = {**metrics, "step": step}
        if self._columns is None:
            self._columns = self._continued(step)
        added = [name for name in row if name not in self._columns]
        if added:
            self._rewrite([*self._columns, *added], self._rows())
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv_format.DictWriter(file, self._columns).writerow(row)

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv_format.DictReader(file))

    def _continued(self, step: int) -> list[str]:
        """Keep the rows before ``step``: later ones are of steps that a resumed run takes again."""
        rows = self._rows()
        kept = [row for row in rows if int(row["step"]) < step]
        self._rewrite(list(rows[0]) if rows else list(_KEYS), kept)
        assert self._columns is not None
        return self._columns

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv_format.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        part.replace(self.path)
        self._columns = columns


def tensorboard(run_dir: str | os.PathLike[str]) -> Logger:
    """TensorBoard log of metrics and pictures, in the run folder's ``tensorboard``.

    Args:
        run_dir: run folder.
    """
    return TensorBoardLogger(os.fspath(run_dir), name="tensorboard", version="", default_hp_metric=False, flush_secs=30)
