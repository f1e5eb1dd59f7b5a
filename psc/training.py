"""A run from configuration to record: read → fit → evaluate → result.json."""

import datetime
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from psc.affinity_protocol import evaluate_affinities
from psc.backbones import UNet
from psc.build import build_network, build_network_on_meta, forward_flops, patch_input_size
from psc.callbacks import IterationProgress, StoreConfig, Throughput
from psc.checkpoints import load_checkpoint, load_network_weights, stored_config
from psc.cli import argv_of_this_job
from psc.config.schema import AffinityRecipeConfig, FibsemConfig, TrainConfig
from psc.datasets.modules import AffinityData
from psc.datasets.splits import Splits, prepare_synthetic, read_splits
from psc.errors import CheckpointError
from psc.metrics_file import MetricsFile, read_metrics
from psc.provenance import git_state, hardware, versions
from psc.results import Record, read_record, write_json, write_record
from psc.run_folder import BEST, RunFolder, choose_run_folder
from psc.tasks.affinity import AffinityTask
from psc.trainer import build_trainer, compiles, loader_workers, quieten_lightning
from psc.wandb_run import wandb_loggers

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "PSC_RUN_FOLDER"
"""Tells the processes that the first one starts which folder it chose."""

RESUME_VARIABLE = "PSC_RESUME_FROM"
"""The same of the checkpoint that it continues from; empty for none."""


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
        PSCError: for data, configuration or checkpoints that cannot work.
    """
    plain = asdict(config)
    code = git_state()  # now, not at the end: this is the code that runs, whatever is edited since
    folder = _folder(plain)
    if folder.is_finished:
        log.info("already finished: %s (resume=false trains it again)", folder.path)
        return read_record(folder.path)
    announce(config, folder)
    assert isinstance(config.recipe, AffinityRecipeConfig)  # psc.config.checks
    assert isinstance(config.dataset, FibsemConfig)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    prepare_synthetic(config.dataset)
    splits = read_splits(config.dataset)
    network = build_network(config.backbone, config.block)
    data = AffinityData(
        splits,
        config.dataset,
        config.recipe,
        network,
        seed=config.seed,
        workers=loader_workers(config.trainer),
    )
    iterations = data.epochs * data.iterations_per_epoch
    task = AffinityTask(
        network,
        config.recipe,
        loss=config.recipe.loss,
        iterations=iterations,
        channels_last=config.trainer.channels_last,
    )
    start = _first_step(folder, plain, network)
    if _is_first_process():
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        write_json(plain, folder.path / "config.json")
    throughput = Throughput()
    callbacks: list[Callback] = [StoreConfig(plain), throughput]
    if config.trainer.progress_bar:
        callbacks.append(IterationProgress(iterations))
    metrics = MetricsFile(folder.path / "metrics.csv", first_step=start)
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
        _fit(trainer, task, data, folder.resume_from)
        if not trainer.is_global_zero:
            return None
        attempt = Attempt(
            code,
            throughput,
            time.monotonic() - began,
            trainer.global_step,
            trainer.strategy.root_device,
        )
        record = _finish(config, folder, splits, attempt)
        for logger in loggers:
            logger.log_metrics(
                {f"test/{k}": v for k, v in record.metrics["test"].items()}, step=record.iterations
            )
        return record


def announce(config: TrainConfig, folder: RunFolder) -> None:
    """Say what was chosen for the user, and how to choose otherwise."""
    if not _is_first_process():
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


def _folder(plain: dict[str, Any]) -> RunFolder:
    """The run's folder; the first process of a distributed run chooses for all it starts."""
    if (chosen := os.environ.get(FOLDER_VARIABLE)) and not _is_first_process():
        resume_from = os.environ[RESUME_VARIABLE]
        return RunFolder(Path(chosen), Path(resume_from) if resume_from else None)
    folder = choose_run_folder(plain)
    os.environ[FOLDER_VARIABLE] = str(folder.path)
    os.environ[RESUME_VARIABLE] = str(folder.resume_from or "")
    return folder


def _is_first_process() -> bool:
    """Before a trainer exists, its launchers' variables tell."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


def _first_step(folder: RunFolder, plain: dict[str, Any], network: UNet) -> int:
    """The iteration that a run continues at, after checking that the checkpoint fits it.

    Raises:
        CheckpointError: if it is damaged, of another network, or already past the end.
    """
    if folder.resume_from is None:
        return 0
    checkpoint = load_checkpoint(folder.resume_from)
    load_network_weights(network, checkpoint, folder.resume_from)
    trained_with = stored_config(checkpoint, folder.resume_from)
    for part in ("backbone", "block"):
        if trained_with[part] != plain[part]:
            raise CheckpointError(
                f"{folder.resume_from} was trained with {part}={trained_with[part]}, this run has "
                f"{plain[part]}"
            )
    return int(checkpoint["global_step"])


def _fit(
    trainer: lightning.Trainer, task: AffinityTask, data: AffinityData, resume_from: Path | None
) -> None:
    """Lightning's fit, except that an interruption stays a KeyboardInterrupt."""
    try:
        with argv_of_this_job():
            trainer.fit(task, datamodule=data, ckpt_path=resume_from, weights_only=True)
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise


def _finish(config: TrainConfig, folder: RunFolder, splits: Splits, attempt: Attempt) -> Record:
    """Evaluate the best checkpoint and write the record."""
    assert isinstance(config.dataset, FibsemConfig)
    assert isinstance(config.recipe, AffinityRecipeConfig)
    best = folder.checkpoints / BEST
    network = build_network(config.backbone, config.block)
    load_network_weights(network, load_checkpoint(best), best)
    input_size = patch_input_size(config.recipe, network)
    began = time.monotonic()
    metrics = evaluate_affinities(
        network.to(attempt.device).eval(),
        splits,
        config.dataset,
        config.segmentation,
        folder.path / "evaluation",
        tile_input=input_size,
        device=attempt.device,
        source={"checkpoint": str(best.relative_to(folder.path)), "run": folder.path.name},
    )
    # Backward costs twice the forward pass: a gradient of the input and one of the weights.
    on_meta = build_network_on_meta(config.backbone, config.block)
    flops = 3 * config.recipe.batch_size * forward_flops(on_meta, input_size)
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
        throughput=attempt.throughput.summary(flops),
        seed=config.seed,
        data=splits.record(),
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
