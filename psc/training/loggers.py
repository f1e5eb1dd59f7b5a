"""Weights & Biases on request: offline without a login, never a prompt, always finished.

A run's group is the table that it belongs to, its job type its network, the row: in the web page,
runs grouped by both are the table, and the seeds of a row are averaged.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psc.training.records import FILE_NAME, Record
from psc.training.settings import LoggerConfig

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger


log = logging.getLogger(__name__)


@contextmanager
def wandb_loggers(
    config: LoggerConfig, plain: dict[str, Any], folder: Path
) -> Iterator["list[WandbLogger]"]:
    """The logger of a run, in a list; none if not asked for. Finished however the run ends.

    Args:
        config: whether, which project, and the mode: auto is online with a login, else offline;
            the group, by default the data set.
        plain: the run's configuration.
        folder: the run's folder; its name is the run's.
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
    """Log a finished run's test scores, its pictures, and its record as an artifact.

    Args:
        loggers: of ``wandb_loggers``.
        record: of the run.
        folder: of the run, with ``evaluation/*.png`` and the record's file.
    """
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
