"""Weights & Biases on request: offline without a login, never a prompt, always finished."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from psc.config.schema import LoggerConfig

log = logging.getLogger(__name__)


@contextmanager
def wandb_loggers(
    config: LoggerConfig, plain: dict[str, Any], folder: Path
) -> Iterator[list[Logger]]:
    """The logger of a run, in a list; none if not asked for. Finished however the run ends.

    Args:
        config: whether, which project, and the mode: auto is online with a login, else offline.
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
                save_dir=folder,
                offline=mode == "offline",
                config=plain,
            )
        ]
    finally:
        wandb.finish()


def _is_logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path.home() / ".netrc"
    return netrc.is_file() and "api.wandb.ai" in netrc.read_text()
