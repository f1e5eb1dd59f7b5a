"""A run from configuration to record: read → fit → evaluate → result.json."""

import datetime
import functools
import logging
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
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
from psc.training.callbacks import KEPT, IterationProgress, KeepCheckpoints, StoreConfig, Throughput
from psc.training.checkpoints import (
    AtomicCheckpointIO,
    Checkpoint,
    initial_weights,
    read_checkpoint,
    resumed_step,
)
from psc.training.data import TrainingData, training_epochs
from psc.training.evaluation import evaluated
from psc.training.folder import (
    BEST,
    LAST,
    RunFolder,
    folder_of_this_run,
    handed_to_children,
    is_first_process,
)
from psc.training.hardware import (
    compiles,
    loader_workers,
    prediction_precision,
    settled,
    training_precision,
)
from psc.training.loggers import MetricsFile, log_outcome, training_seconds, wandb_loggers
from psc.training.provenance import difference, git_state
from psc.training.records import Record, read_record, write_record

log = logging.getLogger(__name__)


def train(config: TrainConfig) -> Record | None:
    """Train, evaluate and record one run of a checked configuration (``psc.config.compose``).

    None on the processes of a distributed run other than the first.
    """
    config = replace(config, trainer=settled(config.trainer))
    every, interval = config.trainer.test_every, training_epochs(config.recipe)[1]
    if every is not None and every % interval:
        raise ConfigError(
            f"trainer.test_every={every}: must be a multiple of {interval}, the iterations between "
            "two validations (recipe.validate_every)"
        )
    plain = asdict(config)
    code = _code_of_this_process()
    with folder_of_this_run(plain) as folder:
        if not folder.is_finished:
            return _train(config, plain, code, folder)
        record = read_record(folder.path)
        if reason := difference(record.git, code):
            log.warning(f"already finished: {folder.path}, but {reason}; resume=false trains again")
        else:
            log.info(f"already finished: {folder.path} (resume=false trains it again)")
        return record


@functools.cache
def _code_of_this_process() -> dict[str, Any]:
    """Git's state at the first run: the code that also the later runs of a sweep have loaded."""
    return git_state()


def _train(
    config: TrainConfig, plain: dict[str, Any], code: dict[str, Any], folder: RunFolder
) -> Record | None:
    if is_first_process():
        _announce(config, folder)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    initial = initial_weights(config)
    application = build_application(config)
    network = build_network(config.backbone, config.block)
    if initial is not None:
        initial.load_into(network)
        application.begin_with(initial)
    data = application.training_data(network, loader_workers(config.trainer))
    iterations = data.epochs * data.iterations_per_epoch
    task = application.task(network, iterations)
    conversion = None if initial is None else initial.conversion
    if conversion is not None and is_first_process():
        log.info("the network is converted as that of %s: %s", config.initial_weights, conversion)
    start = resumed_step(folder.resume_from, config, network, conversion)
    if is_first_process():
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        write_json(plain, folder.path / "config.json")
        for line in application.reads():
            log.info("%s", line)
        _announce_training(config, network, data)
    throughput = Throughput(iterations)
    converted = None if conversion is None else asdict(conversion)
    stored = StoreConfig(plain, application.seen, converted)
    callbacks: list[Callback] = [stored, throughput]
    if config.trainer.test_every is not None:
        callbacks.append(KeepCheckpoints(folder.checkpoints, config.trainer.test_every))
    if config.trainer.progress_bar:
        callbacks.append(IterationProgress(iterations))
    metrics = MetricsFile(folder.metrics, first_step=start, measures=application.measures)
    quieten_lightning()
    with wandb_loggers(config.logger, plain, folder.path) as more_loggers:
        trainer = _trainer(config, folder, data, [metrics, *more_loggers], callbacks)
        if compiles(config.trainer):
            network.compile()
        began = time.monotonic()
        _fit(trainer, task, data, folder)
        if not trainer.is_global_zero:
            return None
        record = _finish(
            application, folder, trainer, throughput, time.monotonic() - began, code, initial
        )
        tested = {f"test/{k}": v for k, v in record.metrics["test"].items()}
        metrics.log_metrics(tested, step=record.iterations)
        log_outcome(more_loggers, record, folder.path)
        return record


def _announce(config: TrainConfig, folder: RunFolder) -> None:
    """Say what was chosen for the user, and how to choose otherwise."""
    if config.budget.name == "auto":
        device = "a GPU" if torch.cuda.is_available() else "no GPU"
        other = "quick" if config.recipe.name.endswith("paper") else "paper"
        log.info(
            f"budget=auto: {device} found, took {config.recipe.name} "
            f"({config.recipe.iterations} iterations); budget={other} for the other"
        )
    data = config.dataset.name
    if data.endswith("synthetic"):
        log.warning(
            f"\n*** SYNTHETIC DATA (dataset={data}): a stand-in, no real recording. The record says"
            "\n*** so and never enters the paper's tables. Real data: data/README.md\n"
        )
    what = f"continues {folder.resume_from} in" if folder.resume_from else "writes"
    folds = getattr(config.dataset, "folds", None)
    fold = f", fold {getattr(config.dataset, 'fold', 0)} of {folds}" if folds else ""
    log.info(
        f"{config.backbone.name} × {config.block.name} on {data}{fold}, seed {config.seed}; "
        f"{what} {folder.path}"
    )


def _announce_training(config: TrainConfig, network: torch.nn.Module, data: TrainingData) -> None:
    """Say what is trained, on how much at a time."""
    recipe, interval = config.recipe, data.iterations_per_epoch
    sample = " × ".join(map(str, recipe.sample_shape(network)[1:]))
    log.info(
        f"trains {sum(p.numel() for p in network.parameters()):,} parameters: "
        f"{data.epochs * interval:,} iterations of {recipe.batch_size} × ({sample}) voxels, "
        f"validated every {interval} (recipe {recipe.name})"
    )


def quieten_lightning() -> None:
    """Lightning announces devices and its own products; warnings and errors still come through."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "`isinstance\\(treespec")  # between Lightning and torch
    # Patches are made in microseconds on a CPU; the advice to use more processes does not apply.
    warnings.filterwarnings("ignore", ".*does not have many workers")


def _trainer(
    config: TrainConfig,
    folder: RunFolder,
    data: TrainingData,
    loggers: list[Logger],
    callbacks: Sequence[Callback],
) -> lightning.Trainer:
    """Lightning's, which also writes the best and the last checkpoint."""
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
            precision=training_precision(options),  # type: ignore[arg-type]
            deterministic="warn" if options.deterministic else None,
            max_epochs=data.epochs,
            max_time=None if minutes is None else datetime.timedelta(minutes=minutes),
            callbacks=[best, last, *callbacks],
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
    trainer: lightning.Trainer,
    throughput: Throughput,
    seconds: float,
    code: dict[str, Any],
    initial: Checkpoint | None,
) -> Record:
    """Evaluate the best checkpoint and write the record."""
    config, device = application.config, trainer.strategy.root_device
    best = read_checkpoint(folder.checkpoints / BEST)
    where: dict[str, Any] = {
        "device": device,
        "precision": prediction_precision(None, training_precision(config.trainer), device),
    }
    # Backward costs twice the forward pass: a gradient of the input and one of the weights.
    on_meta = best.network_on_meta()
    sample = forward_flops(on_meta, config.recipe.sample_shape(on_meta))
    tested = evaluated(
        application,
        best,
        best.network(),
        folder.path / "evaluation",
        source=_source(folder, best),
        **where,
    )
    if config.trainer.test_every is not None:
        tested.metrics["by_iteration"] = [
            _tested_in_passing(application, folder, path, where)
            for path in sorted(folder.checkpoints.glob(f"{KEPT}*.ckpt"))
        ]
    trained = round(max(seconds, training_seconds(folder.metrics)), 1)
    record = replace(
        tested,
        run=folder.path.name,
        iterations=trainer.global_step,  # those of the best checkpoint are fewer
        wall_seconds={"training": trained, **tested.wall_seconds},
        throughput=throughput.summary(3 * config.recipe.batch_size * sample),
        data=tested.data | ({} if initial is None else {"initial_weights": initial.digest}),
        git=code,
        hardware=tested.hardware | {"processes": trainer.world_size},
    )
    log.info("written to %s", write_record(record, folder.path))
    return record


def _source(folder: RunFolder, checkpoint: Checkpoint) -> dict[str, str]:
    return {"checkpoint": str(checkpoint.path.relative_to(folder.path)), "run": folder.path.name}


def _tested_in_passing(
    application: Application, folder: RunFolder, path: Path, where: dict[str, Any]
) -> dict[str, Any]:
    """What the test protocol says of a kept checkpoint; the outputs are not kept."""
    checkpoint = read_checkpoint(path)
    log.info("after %d iterations:", checkpoint.iterations)
    with tempfile.TemporaryDirectory(dir=folder.path, prefix=".test-") as outputs:
        metrics = evaluated(
            application,
            checkpoint,
            checkpoint.network(),
            Path(outputs) / "evaluation",
            source=_source(folder, checkpoint),
            **where,
        ).metrics
    kept = (key for key in ("threshold", "validation", "test") if key in metrics)
    return {"iterations": checkpoint.iterations} | {key: metrics[key] for key in kept}
