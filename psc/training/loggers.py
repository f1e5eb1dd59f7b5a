"""Where a training's numbers go: metrics.csv always, Weights & Biases on request.

In W&B a run's group is the table that it belongs to, its job type its network, the row: in the web
page, runs grouped by both are the table, and the seeds of a row are averaged.
"""

import csv
import logging
import os
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from psc.errors import DataError
from psc.files import replacing
from psc.training.records import FILE_NAME, Record, over_attempts
from psc.training.settings import LoggerConfig

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)

COLUMNS = ("step", "epoch", "seconds", "train/loss", "validation/loss", "learning_rate")
"""Columns of every metrics.csv; ``seconds`` of training, all attempts together."""


class MetricsFile(Logger):
    """Appends metrics to a CSV file, a row per logged step, each flushed as it is logged.

    Lightning's CSVLogger deletes an existing file when a run continues; this one goes on writing.

    Rows of an earlier attempt from ``first_step`` on are dropped: a run that resumes at step 300
    computes steps 300, 301, … again. ``measures`` are columns beside ``COLUMNS``.
    """

    def __init__(self, path: Path, first_step: int = 0, *, measures: Sequence[str] = ()) -> None:
        super().__init__()
        self.path = path
        self.columns = (*COLUMNS, *measures)
        self._start = time.monotonic()
        self._before = 0.0
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
        for row, seconds in zip(rows, clock := _clock(rows), strict=True):
            row["seconds"] = str(seconds)
        self._before = clock[-1] if clock else 0.0
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
        row |= {"step": step, "seconds": round(self._before + time.monotonic() - self._start, 3)}
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
    """Rows of a metrics.csv, without one cut short by a kill; none if there is no such file.

    Raises:
        DataError: a step or a time is missing or no number.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    try:
        for row in rows:
            int(row["step"]), float(row["seconds"])
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path} was changed: a step or a time is missing or no number ({error}); restore it"
            " or delete it: training goes on, its curves begin there"
        ) from error
    return rows


def training_seconds(path: Path) -> float:
    """Training time over all attempts."""
    return (_clock(read_metrics(path)) or [0.0])[-1]


def _clock(rows: Iterable[Mapping[str, str]]) -> list[float]:
    return over_attempts([float(row["seconds"]) for row in rows])


@contextmanager
def wandb_loggers(
    config: LoggerConfig, plain: dict[str, Any], folder: Path
) -> Iterator["list[WandbLogger]"]:
    """The logger of a run, in a list; none if not asked for. Finished however the run ends.

    Its mode auto is online with a login, else offline, never a prompt; its group is by default the
    data set.
    """
    if not config.wandb:
        yield []
        return
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb  # a machine without it still trains
    from lightning.pytorch.loggers import WandbLogger

    mode = config.mode
    if mode == "auto":
        mode = "online" if _is_logged_in() else "offline"
    log.info("wandb: %s, in %s", mode, folder / "wandb")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield [
            WandbLogger(
                name=folder.name,
                project=config.project,
                group=config.group or str(plain["dataset"]["name"]),
                job_type=f"{plain['backbone']['name']} {plain['block']['name']}",
                save_dir=folder,
                offline=mode == "offline",
                config=plain,
            )
        ]
    finally:
        wandb.finish()


def log_outcome(loggers: "Sequence[WandbLogger]", record: Record, folder: Path) -> None:
    """Log a run's test scores, its folder's evaluation/*.png, and its record as an artifact."""
    for logger in loggers:
        import wandb

        run = logger.experiment
        pictures = sorted((folder / "evaluation").glob("*.png"))
        run.log({f"evaluation/{path.stem}": wandb.Image(str(path)) for path in pictures})
        scores = {k: v for k, v in record.metrics["test"].items() if isinstance(v, int | float)}
        run.summary.update({f"test/{name}": value for name, value in scores.items()})
        run.summary.update({"parameters": record.parameters, "data": record.data["kind"]})
        artifact = wandb.Artifact(record.run, type="record")
        artifact.add_file(str(folder / FILE_NAME))
        run.log_artifact(artifact)


def _is_logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path.home() / ".netrc"
    return netrc.is_file() and "api.wandb.ai" in netrc.read_text()
