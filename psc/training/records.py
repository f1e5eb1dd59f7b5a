"""The record that a run leaves: ``result.json``, written once, atomically, when all is done.

A record is sealed: it holds the SHA-256 of its own content, and one whose content has changed since
is refused. The seal guards against slips (a number edited by hand, a merge gone wrong), not against
forgers: whoever can run this code can seal anything.
"""

import csv
import hashlib
import json
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from psc.errors import DataError
from psc.files import replacing, write_json

# ----------------------------------------
# metrics.csv: the numbers of a training, one row per logged step, kept across a resume.
#
# Lightning's CSVLogger deletes an existing file when a run continues; this one goes on writing it.


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
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

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


FILE_NAME = "result.json"

SCHEMA_VERSION = 2
"""1: without a seal."""

SEAL = "seal"
"""Key of the seal in the file."""


@dataclass(frozen=True)
class Record:
    """One run's result with everything needed to trust or repeat it.

    Attributes:
        run: name of the run folder.
        config: the resolved configuration, plain containers.
        metrics: numbers by name; VI in bits (see ``psc.metrics``).
        parameters: learnable parameters of the network.
        iterations: how many were trained (not how many were asked for).
        wall_seconds: of the training, all attempts of a resumed run together, and of the
            evaluation.
        throughput: see ``psc.training.callbacks.Throughput``.
        seed: of weights and patches.
        data: kind ("real", "real sample" or "synthetic") and files with size and sha256.
        git: commit and whether the checkout had changes.
        versions: of Python and packages.
        hardware: device, processor, cores.
        finished: when, ISO 8601, UTC.
    """

    run: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    parameters: int
    iterations: int
    wall_seconds: dict[str, float]
    throughput: dict[str, float | None]
    seed: int
    data: dict[str, Any]
    git: dict[str, Any]
    versions: dict[str, str | None]
    hardware: dict[str, Any]
    finished: str
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def seal(self) -> str:
        """The seal that fits this content."""
        return seal_of(asdict(self))


def seal_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a record's content, as hex digits.

    Of its JSON with sorted keys and without spaces, so that neither the order of keys nor the
    layout of the file counts; a seal in ``content`` is left out.
    """
    as_read = json.loads(json.dumps(content))  # keys become text before they are sorted
    as_read.pop(SEAL, None)
    text = json.dumps(as_read, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_record(record: Record, folder: Path) -> Path:
    """Seal a record and write ``folder/result.json`` atomically; returns its path."""
    return write_json({**asdict(record), SEAL: record.seal}, folder / FILE_NAME)


def read_record(path: Path) -> Record:
    """Read a result.json.

    Args:
        path: the file, or the run folder that holds it.

    Raises:
        DataError: if it is missing, not JSON, of another schema, lacks a field, has no seal, or one
            that does not fit its content.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no record at {path}: the run has not finished") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}); it was not written by train.py") from error
    _check_version(content, path)
    seal = content.pop(SEAL, None)
    try:
        record = Record(**content)
    except TypeError as error:
        raise DataError(f"{path} is not a complete record: {error}") from error
    if seal is None:
        raise DataError(f"{path} has no seal: it was not written by train.py or evaluate.py")
    if seal != seal_of(content):
        raise DataError(
            f"the seal of {path} does not fit its content: it was edited by hand. Restore it "
            "(git checkout -- the file) or run it again"
        )
    return record


def _check_version(content: Any, path: Path) -> None:
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found == SCHEMA_VERSION:
        return
    message = f"{path} has schema version {found}, this code reads {SCHEMA_VERSION}; "
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise DataError(f"{message}it is of newer code: update this checkout (git pull)")
    git = content.get("git") if isinstance(content, dict) else None
    commit = git.get("commit") if isinstance(git, dict) else None
    which = f"commit {commit}" if commit else "its git commit is in the file"
    raise DataError(f"{message}use the code version that wrote it ({which})")
