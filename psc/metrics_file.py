"""metrics.csv: the numbers of a training, one row per logged step, kept across a resume.

Lightning's CSVLogger deletes an existing file when a run continues; this one goes on writing it.
"""

import csv
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

COLUMNS = ("step", "epoch", "seconds", "train/loss", "validation/loss", "learning_rate")
"""Columns of every metrics.csv; ``seconds`` since this process began to train."""


class MetricsFile(Logger):
    """Appends metrics to a CSV file, each row flushed as it is logged.

    Args:
        path: the file; created with its header if missing.
        first_step: rows of an earlier attempt from this step on are dropped: a run that resumes at
            step 300 computes steps 300, 301, … again.
        measures: columns of this training beside ``COLUMNS``.
    """

    def __init__(self, path: Path, first_step: int = 0, *, measures: Sequence[str] = ()) -> None:
        super().__init__()
        self.path = path
        self.columns = (*COLUMNS, *measures)
        self._start = time.monotonic()
        self._prepare(first_step)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics.csv"

    @property
    def version(self) -> str:
        """One file per run folder."""
        return ""

    @rank_zero_only
    def _prepare(self, first_step: int) -> None:
        rows = [row for row in read_metrics(self.path) if int(row["step"]) < first_step]
        partial = self.path.with_name(f".{self.path.name}.tmp")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row; names that are no column are left to other loggers."""
        row: dict[str, Any] = {name: metrics[name] for name in self.columns if name in metrics}
        if not row.keys() - {"epoch"}:
            return
        row |= {"step": step, "seconds": round(time.monotonic() - self._start, 3)}
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the run folder holds the whole configuration."""


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv, without one cut short by a kill; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]
