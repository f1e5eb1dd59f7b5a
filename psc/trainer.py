"""Lightning's Trainer for our runs, and what "auto" means on this machine."""

import datetime
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger

from psc.checkpoints import AtomicCheckpointIO
from psc.config.schema import TrainConfig, TrainerConfig
from psc.errors import ConfigError
from psc.run_folder import BEST, LAST, RunFolder


def build_trainer(
    config: TrainConfig,
    folder: RunFolder,
    *,
    epochs: int,
    iterations_per_epoch: int,
    loggers: list[Logger],
    callbacks: Sequence[Callback],
) -> lightning.Trainer:
    """The Trainer of a run: checkpoints, loggers, devices, precision.

    Args:
        config: the run's configuration.
        folder: where checkpoints go.
        epochs: validation intervals.
        iterations_per_epoch: iterations of each.
        loggers: of metrics.
        callbacks: beside the two that write the best and the last checkpoint.

    Raises:
        ConfigError: if Lightning cannot do what ``config.trainer`` asks on this machine.
    """
    common: dict[str, Any] = {
        "save_top_k": 1,
        # After the epoch's validation, so that a resumed run begins with a whole epoch.
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
    }
    best = ModelCheckpoint(
        folder.checkpoints, Path(BEST).stem, monitor="validation/loss", mode="min", **common
    )
    # Lightning's save_last writes only where the best improves, and a resume would go back to it.
    last = ModelCheckpoint(folder.checkpoints, Path(LAST).stem, monitor=None, **common)
    options, minutes = config.trainer, config.recipe.max_minutes
    try:
        return lightning.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            precision=precision(options),  # type: ignore[arg-type]
            deterministic="warn" if options.deterministic else None,
            max_epochs=epochs,
            max_time=None if minutes is None else datetime.timedelta(minutes=minutes),
            callbacks=[best, last, *callbacks],
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder.path,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=min(10, iterations_per_epoch),
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"trainer.accelerator={options.accelerator}, devices={options.devices}, "
            f"strategy={options.strategy}: {error}"
        ) from error


def loader_workers(trainer: TrainerConfig) -> int:
    """Beside a GPU patches are made by other processes; on a CPU they would only compete."""
    if trainer.workers != "auto":
        return int(trainer.workers)
    return min(4, max(1, (os.cpu_count() or 2) - 1)) if _uses_gpu(trainer) else 0


def _uses_gpu(trainer: TrainerConfig) -> bool:
    return trainer.accelerator != "cpu" and torch.cuda.is_available()


def compiles(trainer: TrainerConfig) -> bool:
    """Whether to compile the network: by default on a GPU, where it pays."""
    return _uses_gpu(trainer) if trainer.compile == "auto" else bool(trainer.compile)


def precision(trainer: TrainerConfig) -> str:
    """Lightning's name of the precision: by default bf16 where a GPU has it, else float32."""
    if trainer.precision != "auto":
        return trainer.precision
    return "bf16-mixed" if _uses_gpu(trainer) and torch.cuda.is_bf16_supported() else "32-true"


def quieten_lightning() -> None:
    """Lightning announces devices and its own products; warnings and errors still come through."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "`isinstance\\(treespec")  # between Lightning and torch
    # Patches are made in microseconds on a CPU; the advice to use more processes does not apply.
    warnings.filterwarnings("ignore", ".*does not have many workers")
