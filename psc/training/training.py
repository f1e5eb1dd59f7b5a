"""A run from configuration to record: read → fit → evaluate → result.json."""

import datetime
import functools
import logging
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from psc.applications import build_application
from psc.config.schema import TrainConfig
from psc.errors import ConfigError
from psc.files import write_json
from psc.networks.build import build_network, forward_flops
from psc.training.application import Application
from psc.training.callbacks import IterationProgress, StoreConfig, Throughput
from psc.training.checkpoints import (
    AtomicCheckpointIO,
    InitialWeights,
    checkpoint_network,
    checkpoint_network_on_meta,
    conversion_record,
    first_step,
    initial_weights,
    load_checkpoint,
)
from psc.training.folder import (
    BEST,
    LAST,
    RunFolder,
    folder_of_this_run,
    handed_to_children,
    is_first_process,
)
from psc.training.loggers import log_outcome, wandb_loggers
from psc.training.provenance import difference, git_state, hardware, versions
from psc.training.records import MetricsFile, Record, read_metrics, read_record, write_record
from psc.training.settings import TrainerConfig

# ----------------------------------------
# Lightning's Trainer for our runs, and what "auto" means on this machine.


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


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """What the record says of the training itself.

    Attributes:
        code: git state when it began.
        throughput: measured during it.
        seconds: it took, of this process.
        iterations: trained in all.
        device: it ran on.
    """

    code: dict[str, Any]
    throughput: Throughput
    seconds: float
    iterations: int
    device: torch.device


def train(config: TrainConfig) -> Record | None:
    """Train, evaluate and record one run.

    Args:
        config: checked (``psc.config.to_typed``).

    Returns:
        The record; None on the processes of a distributed run other than the first.

    Raises:
        PSCError: for data, configuration or checkpoints that cannot work; or another process is
            training this very run.
    """
    plain = asdict(config)
    code = _code_of_this_process()
    with folder_of_this_run(plain) as folder:
        if not folder.is_finished:
            return _train(config, plain, code, folder)
        record = read_record(folder.path)
        if reason := difference(record.git, code):
            log.warning(
                "already finished: %s, but %s; resume=false trains it again",
                folder.path,
                reason,
            )
        else:
            log.info("already finished: %s (resume=false trains it again)", folder.path)
        return record


@functools.cache
def _code_of_this_process() -> dict[str, Any]:
    """Git's state at the first run: the code that also the later runs of a sweep have loaded."""
    return git_state()


def _train(
    config: TrainConfig, plain: dict[str, Any], code: dict[str, Any], folder: RunFolder
) -> Record | None:
    announce(config, folder)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    initial = initial_weights(config)
    application = build_application(config)
    network = build_network(config.backbone, config.block)
    if initial is not None:
        initial.copy_into(network)
    data = application.training_data(network, loader_workers(config.trainer))
    iterations = data.epochs * data.iterations_per_epoch
    task = application.task(network, iterations)
    conversion = None if initial is None else initial.conversion
    if conversion is not None and is_first_process():
        log.info("the network is converted as that of %s: %s", config.initial_weights, conversion)
    start = first_step(folder, plain, network, conversion)
    if is_first_process():
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        write_json(plain, folder.path / "config.json")
    throughput = Throughput()
    stored = StoreConfig(plain, None if conversion is None else asdict(conversion))
    callbacks: list[Callback] = [stored, throughput]
    if config.trainer.progress_bar:
        callbacks.append(IterationProgress(iterations))
    metrics = MetricsFile(
        folder.path / "metrics.csv", first_step=start, measures=application.measures
    )
    quieten_lightning()
    with wandb_loggers(config.logger, plain, folder.path) as more_loggers:
        loggers = [metrics, *more_loggers]
        trainer = build_trainer(
            config,
            folder,
            epochs=data.epochs,
            iterations_per_epoch=data.iterations_per_epoch,
            loggers=loggers,
            callbacks=callbacks,
        )
        if compiles(config.trainer):
            network.compile()
        began = time.monotonic()
        _fit(trainer, task, data, folder)
        if not trainer.is_global_zero:
            return None
        attempt = Attempt(
            code,
            throughput,
            time.monotonic() - began,
            trainer.global_step,
            trainer.strategy.root_device,
        )
        record = _finish(application, folder, attempt, initial)
        tested = {f"test/{k}": v for k, v in record.metrics["test"].items()}
        metrics.log_metrics(tested, step=record.iterations)
        log_outcome(more_loggers, record, folder.path)
        return record


def announce(config: TrainConfig, folder: RunFolder) -> None:
    """Say what was chosen for the user, and how to choose otherwise."""
    if not is_first_process():
        return
    if config.budget.name == "auto":
        device = "a GPU" if torch.cuda.is_available() else "no GPU"
        other = "quick" if config.recipe.name.endswith("paper") else "paper"
        log.info(
            "budget=auto: %s found, took %s (%d iterations); budget=%s for the other",
            device,
            config.recipe.name,
            config.recipe.iterations,
            other,
        )
    if config.dataset.name.endswith("synthetic"):
        log.warning(
            "\n*** SYNTHETIC DATA (dataset=%s): a stand-in, no real recording. The record says so"
            "\n*** and never enters the paper's tables. Real data: data/README.md\n",
            config.dataset.name,
        )
    what = f"continues {folder.resume_from} in" if folder.resume_from else "writes"
    log.info(
        "%s × %s on %s, seed %d; %s %s",
        config.backbone.name,
        config.block.name,
        config.dataset.name,
        config.seed,
        what,
        folder.path,
    )


def _fit(
    trainer: lightning.Trainer,
    task: lightning.LightningModule,
    data: lightning.LightningDataModule,
    folder: RunFolder,
) -> None:
    """Lightning's fit, except that an interruption stays a KeyboardInterrupt."""
    try:
        with handed_to_children(folder):
            trainer.fit(task, datamodule=data, ckpt_path=folder.resume_from, weights_only=True)
    except SystemExit as error:
        # Lightning's exit after Ctrl-C or a kill. Submitit exits too, having queued a job again.
        if isinstance(error, SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # the next job of a sweep starts its own


def _finish(
    application: Application,
    folder: RunFolder,
    attempt: Attempt,
    initial: InitialWeights | None,
) -> Record:
    """Evaluate the best checkpoint and write the record."""
    begun_with = {} if initial is None else {"initial_weights": initial.digest}
    config = application.config
    best = folder.checkpoints / BEST
    checkpoint = load_checkpoint(best)
    network = checkpoint_network(config, checkpoint, best)
    on_meta = checkpoint_network_on_meta(config, checkpoint, best)
    converted = conversion_record(checkpoint)
    del checkpoint  # its optimiser takes twice the network's memory
    began = time.monotonic()
    metrics = application.evaluate(
        network.to(attempt.device).eval(),
        folder.path / "evaluation",
        device=attempt.device,
        source={"checkpoint": str(best.relative_to(folder.path)), "run": folder.path.name},
    )
    # Backward costs twice the forward pass: a gradient of the input and one of the weights.
    sample = forward_flops(on_meta, config.recipe.sample_shape(on_meta))
    record = Record(
        run=folder.path.name,
        config=asdict(config),
        metrics=metrics,
        parameters=sum(p.numel() for p in network.parameters()),
        iterations=attempt.iterations,
        wall_seconds={
            "training": round(max(attempt.seconds, _logged_seconds(folder)), 1),
            "evaluation": round(time.monotonic() - began, 1),
        },
        throughput=attempt.throughput.summary(3 * config.recipe.batch_size * sample),
        seed=config.seed,
        data={**application.data_record(), **begun_with, **converted},
        git=attempt.code,
        versions=versions(),
        hardware=hardware(attempt.device.type),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    log.info("written to %s", write_record(record, folder.path))
    return record


def _logged_seconds(folder: RunFolder) -> float:
    """Training time over all attempts: each starts its clock at 0, so sum its last readings."""
    total = previous = 0.0
    for row in read_metrics(folder.path / "metrics.csv"):
        seconds = float(row["seconds"])
        if seconds < previous:
            total += previous
        previous = seconds
    return total + previous
