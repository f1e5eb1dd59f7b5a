"""The test protocol on a checkpoint, and the record of it: of a run, and of ``evaluate.py``."""

import datetime
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from psc.applications import build_application
from psc.config.schema import EvaluateConfig
from psc.errors import ConfigError
from psc.files import check_output
from psc.networks.weights import ENDING
from psc.training.application import Application
from psc.training.checkpoints import Checkpoint, read_checkpoint
from psc.training.hardware import arithmetic, hardware, inference_device, prediction_precision
from psc.training.provenance import git_state, versions
from psc.training.records import Record, write_record

log = logging.getLogger(__name__)


def evaluate_checkpoint(config: EvaluateConfig) -> Record:
    """Run the test protocol on a trained checkpoint and record it."""
    checkpoint = read_checkpoint(Path(config.checkpoint))
    trained = checkpoint.config
    changed = replace(
        trained,
        dataset=(config.dataset or trained.dataset).fitted(trained.dataset),
        segmentation=trained.segmentation.changed(config.segmentation),
    )
    trained_on, asked = trained.dataset.outputs(), changed.dataset.outputs()
    if trained_on != asked and None in (trained_on, asked):
        raise ConfigError(
            f"dataset={changed.dataset.name} is no data for {checkpoint.path}, a"
            f" {trained.backbone.name} that was trained on {trained.dataset.name}"
        )
    if trained_on != asked:
        raise ConfigError(
            f"dataset={changed.dataset.name} has {asked}, but {checkpoint.path} was trained to"
            f" tell {trained_on} apart"
        )
    folder = _output_folder(config, checkpoint.path, changed.dataset.name)
    device = inference_device(config.accelerator)
    precision = prediction_precision(config.precision, trained.trainer.precision, device)
    network = checkpoint.network()
    application = build_application(changed)
    told = application.check_unseen(checkpoint)
    record = evaluated(
        application,
        checkpoint,
        network,
        folder,
        device=device,
        precision=precision,
        source={"checkpoint": str(checkpoint.path)},
    )
    record = replace(record, data=record.data | told)
    log.info("written to %s", write_record(record, folder))
    return record


def evaluated(
    application: Application,
    checkpoint: Checkpoint,
    network: nn.Module,
    folder: Path,
    *,
    device: torch.device,
    precision: str,
    source: dict[str, str],
) -> Record:
    """Evaluate the network of a checkpoint into a folder, which names the record returned.

    ``source`` is provenance that goes into the outputs. A run adds what it knows of its training.
    """
    config, began = application.config, time.monotonic()
    with arithmetic(precision, device):
        metrics = application.evaluate(
            network.to(device).eval(), folder, device=device, source=source
        )
    return Record(
        run=folder.name,
        config=asdict(config),
        metrics=metrics,
        parameters=sum(p.numel() for p in network.parameters()),
        iterations=checkpoint.iterations,
        wall_seconds={"evaluation": round(time.monotonic() - began, 1)},
        throughput={},
        seed=config.seed,
        data={**application.data_record(), **checkpoint.record},
        git=git_state(),
        versions=versions(),
        hardware=hardware(device.type),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _output_folder(config: EvaluateConfig, checkpoint: Path, dataset: str) -> Path:
    """Where to write: by default in the run's folder; refused if it may not be replaced."""
    place = Path() if checkpoint.suffix == ENDING else checkpoint.parent.parent
    folder = place / f"evaluation-{dataset}-{checkpoint.stem}"
    if config.output is not None:
        folder = Path(config.output)
    return check_output(folder, overwrite=config.overwrite, folder=True)
