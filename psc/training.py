"""A run from configuration to record: read → fit → evaluate → result.json."""

import datetime
import functools
import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from psc.applications import Application, build_application
from psc.build import forward_flops, sample_shape
from psc.callbacks import IterationProgress, StoreConfig, Throughput
from psc.checkpoint_network import (
    checkpoint_network,
    checkpoint_network_on_meta,
    conversion_record,
)
from psc.checkpoints import load_checkpoint
from psc.code_version import difference
from psc.config.schema import TrainConfig
from psc.metrics_file import MetricsFile, read_metrics
from psc.processes import folder_of_this_run, handed_to_children, is_first_process
from psc.provenance import git_state, hardware, versions
from psc.results import Record, read_record, write_json, write_record
from psc.run_folder import BEST, RunFolder
from psc.starting_point import InitialWeights, first_step, initial_weights
from psc.trainer import build_trainer, compiles, loader_workers, quieten_lightning
from psc.wandb_run import log_outcome, wandb_loggers

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
    network = application.build_network()
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
    sample = forward_flops(on_meta, sample_shape(config.recipe, on_meta))
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
