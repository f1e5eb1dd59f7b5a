"""The test protocol on a trained checkpoint: what ``evaluate.py`` does."""

import datetime
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from psc.applications import build_application
from psc.config.compose import from_plain
from psc.config.schema import EvaluateConfig
from psc.errors import ConfigError
from psc.training.checkpoints import (
    checkpoint_network,
    conversion_record,
    load_checkpoint,
    stored_config,
)
from psc.training.provenance import git_state, hardware, versions
from psc.training.records import Record, write_record

log = logging.getLogger(__name__)


def evaluate_checkpoint(config: EvaluateConfig) -> Record:
    """Run the test protocol on a trained checkpoint and record it.

    Args:
        config: the checkpoint, and what to change of the configuration that it holds.

    Raises:
        CheckpointError: if the checkpoint cannot be used.
        ConfigError: if the output folder exists already, or a value cannot work.
        DataError: if the data cannot be read.
    """
    path = Path(config.checkpoint)
    checkpoint = load_checkpoint(path)
    trained = from_plain(stored_config(checkpoint, path), path)
    dataset = config.dataset or trained.dataset
    segmentation = trained.segmentation.changed(config.segmentation)
    folder = _output_folder(config, path, dataset.name)
    changed = replace(trained, dataset=dataset, segmentation=segmentation)
    network = checkpoint_network(trained, checkpoint, path)
    application = build_application(changed)
    device = inference_device(config.accelerator)
    began = time.monotonic()
    metrics = application.evaluate(
        network.to(device).eval(), folder, device=device, source={"checkpoint": str(path)}
    )
    record = Record(
        run=folder.name,
        config=asdict(changed),
        metrics=metrics,
        parameters=sum(p.numel() for p in network.parameters()),
        iterations=int(checkpoint["global_step"]),
        wall_seconds={"evaluation": round(time.monotonic() - began, 1)},
        throughput={},
        seed=trained.seed,
        data={**application.data_record(), **conversion_record(checkpoint)},
        git=git_state(),
        versions=versions(),
        hardware=hardware(device.type),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    log.info("written to %s", write_record(record, folder))
    return record


def _output_folder(config: EvaluateConfig, checkpoint: Path, dataset: str) -> Path:
    """Where to write: by default in the run's folder.

    Raises:
        ConfigError: if it exists and may not be replaced.
    """
    folder = (
        Path(config.output)
        if config.output is not None
        else checkpoint.parent.parent / f"evaluation-{dataset}-{checkpoint.stem}"
    )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output={folder} is a file; give a folder")
    if folder.exists() and not config.overwrite:
        raise ConfigError(
            f"output={folder} exists; give another output=…, or overwrite=true to replace it"
        )
    return folder


def inference_device(accelerator: str) -> torch.device:
    """Where to predict: "auto" takes a GPU if there is one.

    Raises:
        ConfigError: for an unknown choice, or a GPU where there is none.
    """
    if accelerator not in ("auto", "cpu", "gpu"):
        raise ConfigError(f"accelerator={accelerator}: allowed are auto, cpu, gpu")
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("accelerator=gpu: this machine has no GPU that torch can use")
    return torch.device("cpu" if accelerator == "cpu" or not torch.cuda.is_available() else "cuda")
