"""A run from configuration to record: read → fit → evaluate → result.json."""

import datetime
import logging
import os
import time
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch.utils.flop_counter import FlopCounterMode

from psc.backbones import UNet
from psc.build import build_network, patch_input_size
from psc.callbacks import IterationProgress, Throughput
from psc.checkpoints import (
    CONFIG_KEY,
    AtomicCheckpointIO,
    load_checkpoint,
    load_network_weights,
    stored_config,
)
from psc.cli import argv_of_this_job
from psc.config.schema import AffinityRecipeConfig, FibsemConfig, TrainConfig, TrainerConfig
from psc.datasets.modules import AffinityData
from psc.datasets.splits import Splits, prepare_synthetic, read_splits
from psc.errors import CheckpointError, ConfigError
from psc.evaluation import evaluate_affinities
from psc.metrics_file import MetricsFile, read_metrics
from psc.provenance import git_state, hardware, versions
from psc.results import Record, read_record, write_json, write_record
from psc.run_folder import BEST, LAST, RunFolder, choose_run_folder
from psc.tasks.affinity import AffinityTask

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "PSC_RUN_FOLDER"
"""Tells the other processes of a distributed run which folder its first one chose."""


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
    _seed(config)
    if _is_first_process():
        prepare_synthetic(config.dataset)
    splits = read_splits(config.dataset)
    network = build_network(config.backbone, config.block)
    data = AffinityData(
        splits,
        config.dataset,
        config.recipe,
        network,
        seed=config.seed,
        workers=_workers(config.trainer),
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
    metrics = MetricsFile(folder.path / "metrics.csv", first_step=start)
    loggers = [metrics, *_wandb(config, plain, folder)]
    _quieten_lightning()
    try:
        trainer = _trainer(config, folder, data, loggers, throughput)
        if _compiles(config.trainer):
            network.compile()
        began = time.monotonic()
        _fit(trainer, task, data, folder.resume_from)
        if not trainer.is_global_zero:
            return None
        fit_seconds = time.monotonic() - began
        trained = trainer.global_step
        device = trainer.strategy.root_device
        record = _finish(
            config, plain, folder, splits, device, throughput, fit_seconds, trained, code
        )
        for logger in loggers:
            logger.log_metrics(
                {f"test/{k}": v for k, v in record.metrics["test"].items()}, step=trained
            )
        return record
    finally:
        _finish_wandb(config)


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
        path = Path(chosen)
        last = path / "checkpoints" / LAST
        return RunFolder(path, last if plain["resume"] and last.is_file() else None)
    folder = choose_run_folder(plain)
    os.environ[FOLDER_VARIABLE] = str(folder.path)
    return folder


def _is_first_process() -> bool:
    """Before a trainer exists, its launchers' variables tell."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


def _seed(config: TrainConfig) -> None:
    lightning.seed_everything(config.seed, workers=True, verbose=False)


def _workers(trainer: TrainerConfig) -> int:
    """Beside a GPU patches are made by other processes; on a CPU they would only compete."""
    if trainer.workers != "auto":
        return int(trainer.workers)
    return min(4, max(1, (os.cpu_count() or 2) - 1)) if _uses_gpu(trainer) else 0


def _uses_gpu(trainer: TrainerConfig) -> bool:
    return trainer.accelerator != "cpu" and torch.cuda.is_available()


def _compiles(trainer: TrainerConfig) -> bool:
    return _uses_gpu(trainer) if trainer.compile == "auto" else bool(trainer.compile)


def _precision(trainer: TrainerConfig) -> str:
    if trainer.precision != "auto":
        return trainer.precision
    return "bf16-mixed" if _uses_gpu(trainer) and torch.cuda.is_bf16_supported() else "32-true"


def _quieten_lightning() -> None:
    """Lightning announces devices and its own products; warnings and errors still come through."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "`isinstance\\(treespec")  # between Lightning and torch
    # Patches are made in microseconds on a CPU; the advice to use more processes does not apply.
    warnings.filterwarnings("ignore", ".*does not have many workers")


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


class _StoreConfig(Callback):
    """Puts the configuration into every checkpoint, as plain containers."""

    def __init__(self, plain: dict[str, Any]) -> None:
        self.plain = plain

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: Any
    ) -> None:
        checkpoint[CONFIG_KEY] = self.plain


def _trainer(
    config: TrainConfig,
    folder: RunFolder,
    data: AffinityData,
    loggers: list[Logger],
    throughput: Throughput,
) -> lightning.Trainer:
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
    callbacks: list[Callback] = [best, last, _StoreConfig(asdict(config)), throughput]
    if config.trainer.progress_bar:
        callbacks.append(IterationProgress(data.epochs * data.iterations_per_epoch))
    options, minutes = config.trainer, config.recipe.max_minutes
    try:
        return lightning.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            precision=_precision(options),  # type: ignore[arg-type]
            deterministic="warn" if options.deterministic else None,
            max_epochs=data.epochs,
            max_time=None if minutes is None else datetime.timedelta(minutes=minutes),
            callbacks=callbacks,
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder.path,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=min(10, data.iterations_per_epoch),
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"trainer.accelerator={options.accelerator}, devices={options.devices}, "
            f"strategy={options.strategy}: {error}"
        ) from error


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


def _finish(
    config: TrainConfig,
    plain: dict[str, Any],
    folder: RunFolder,
    splits: Splits,
    device: torch.device,
    throughput: Throughput,
    fit_seconds: float,
    iterations: int,
    code: dict[str, Any],
) -> Record:
    """Evaluate the best checkpoint and write the record."""
    assert isinstance(config.dataset, FibsemConfig)
    best = folder.checkpoints / BEST
    network = build_network(config.backbone, config.block)
    load_network_weights(network, load_checkpoint(best), best)
    began = time.monotonic()
    assert isinstance(config.recipe, AffinityRecipeConfig)
    metrics = evaluate_affinities(
        network.to(device).eval(),
        splits,
        config.dataset,
        config.segmentation,
        folder.path / "evaluation",
        tile_input=patch_input_size(config.recipe, network),
        device=device,
        source={"checkpoint": str(best.relative_to(folder.path)), "run": folder.path.name},
    )
    # Backward costs twice the forward pass: a gradient of the input and one of the weights.
    forward = forward_flops(config, patch_input_size(config.recipe, network))
    record = Record(
        run=folder.path.name,
        config=plain,
        metrics=metrics,
        parameters=sum(p.numel() for p in network.parameters()),
        iterations=iterations,
        wall_seconds={
            "training": round(max(fit_seconds, _logged_seconds(folder)), 1),
            "evaluation": round(time.monotonic() - began, 1),
        },
        throughput=throughput.summary(3 * config.recipe.batch_size * forward),
        seed=config.seed,
        data=splits.record(),
        git=code,
        versions=versions(),
        hardware=hardware(device.type),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    log.info("written to %s", write_record(record, folder.path))
    return record


def forward_flops(config: TrainConfig, input_size: int) -> int:
    """FLOPs (two per multiply-add) of one patch's forward pass, counted without computing it."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_network(config.backbone, config.block)(torch.zeros(1, 1, *(input_size,) * 3))
    return int(counter.get_total_flops())


def _logged_seconds(folder: RunFolder) -> float:
    """Training time over all attempts: each starts its clock at 0, so sum its last readings."""
    total = previous = 0.0
    for row in read_metrics(folder.path / "metrics.csv"):
        seconds = float(row["seconds"])
        if seconds < previous:
            total += previous
        previous = seconds
    return total + previous


def _wandb(config: TrainConfig, plain: dict[str, Any], folder: RunFolder) -> list[Logger]:
    """The Weights & Biases logger if asked for: offline without a login, never a prompt."""
    if not config.logger.wandb or not _is_first_process():
        return []
    os.environ.setdefault("WANDB_SILENT", "true")
    from lightning.pytorch.loggers import WandbLogger  # a machine without wandb still trains

    mode = config.logger.mode
    if mode == "auto":
        mode = "online" if _wandb_login() else "offline"
    log.info("wandb: %s, in %s", mode, folder.path / "wandb")
    folder.path.mkdir(parents=True, exist_ok=True)
    return [
        WandbLogger(
            name=folder.path.name,
            project=config.logger.project,
            save_dir=folder.path,
            offline=mode == "offline",
            config=plain,
        )
    ]


def _wandb_login() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path.home() / ".netrc"
    return netrc.is_file() and "api.wandb.ai" in netrc.read_text()


def _finish_wandb(config: TrainConfig) -> None:
    if config.logger.wandb:
        with suppress(ImportError):
            import wandb

            wandb.finish()
