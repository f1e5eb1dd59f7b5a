"""Checkpoints of converted networks, written from those of train.py.

A converted checkpoint holds the weights, the configuration that the ORIGINAL network was trained
with, and the arguments of ``psc.convert``: from these ``psc.training.checkpoints`` builds the
network again.
"""

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from psc.applications import build_application
from psc.config.schema import TrainConfig
from psc.conversion import ConversionReport, calibrate, match_features
from psc.conversion.conversion import ConversionArguments
from psc.conversion.factors import Initialisation
from psc.errors import ConfigError
from psc.training.checkpoints import (
    CONFIG_KEY,
    CONVERSION_KEY,
    NETWORK_PREFIX,
    AtomicCheckpointIO,
    read_checkpoint,
)
from psc.training.hardware import inference_device


@dataclass(frozen=True)
class Correction:
    """What follows a conversion, on training data without their labels."""

    calibrate: bool | None = None  # None: where training data are read in any case
    steps: int = 0  # of feature matching
    learning_rate: float = 1e-3
    accelerator: str = "auto"  # "cpu" or "gpu"


def convert_checkpoint(
    source: Path,
    output: Path,
    arguments: ConversionArguments,
    *,
    init: Initialisation = "svd",
    correction: Correction | None = None,
    overwrite: bool = False,
) -> tuple[ConversionReport, list[float]]:
    """Write a checkpoint of ``block=3d``, converted; its report and the losses of matching.

    Where n > 1 (whose chains of layers one batch shows), and for any correction, the training data
    of the checkpoint's configuration are read.
    """
    if output.exists() and not overwrite:
        raise ConfigError(f"output={output} exists; give another file, or overwrite=true")
    correction = correction or Correction()
    if correction.steps < 0:
        raise ConfigError(f"match_steps must not be negative, got {correction.steps}")
    device = inference_device(correction.accelerator)
    calibrates = correction.calibrate
    if calibrates is None:
        calibrates = arguments.n > 1 or correction.steps > 0
    corrects = calibrates or correction.steps > 0
    checkpoint = read_checkpoint(source)
    if checkpoint.conversion is not None:
        raise ConfigError(f"checkpoint={source} is converted already; convert the one it came from")
    trained, network = checkpoint.config, checkpoint.network()
    original = copy.deepcopy(network) if corrects else network
    inputs = _inputs(trained, network) if arguments.n > 1 or corrects else iter(())
    example = next(inputs) if arguments.n > 1 else None
    conversion = arguments.apply(network, init, example, progress=True)
    report = conversion.report
    if not report.converted:
        raise ConfigError(
            f"checkpoint={source} has no 3D convolution to convert; only networks of block=3d have"
        )
    original.to(device)
    network.to(device)
    batches = (batch.to(device) for batch in inputs)
    if calibrates:
        calibrate(original, conversion, next(batches))
    losses: list[float] = []
    if correction.steps:
        options: dict[str, Any] = {
            "steps": correction.steps,
            "learning_rate": correction.learning_rate,
        }
        losses = match_features(original, conversion, batches, **options, progress=True)
    network.cpu()
    if arguments.n > 1:
        arguments = replace(arguments, runs=[list(run) for run in report.runs])
    written = {
        "state_dict": {f"{NETWORK_PREFIX}{k}": v for k, v in network.state_dict().items()},
        "global_step": checkpoint.iterations,
        CONFIG_KEY: checkpoint.content[CONFIG_KEY],
        CONVERSION_KEY: asdict(arguments),
    }
    AtomicCheckpointIO().save_checkpoint(written, output)
    return report, losses


def _inputs(trained: TrainConfig, network: nn.Module) -> Iterator[Tensor]:
    """The network's inputs in batches of its training data, without end."""
    application = build_application(trained)
    task = application.task(network, 1)
    data = application.training_data(network, 0)
    samples, size = data.training, trained.recipe.batch_size
    index = 0
    while True:
        batch = torch.utils.data.default_collate([samples[i] for i in range(index, index + size)])
        with torch.no_grad():
            yield task.network_input(batch)
        index += size
