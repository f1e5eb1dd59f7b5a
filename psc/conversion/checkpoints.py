"""Checkpoints of converted networks, written from those of train.py.

A converted checkpoint holds the weights, the configuration that the ORIGINAL network was trained
with, and the arguments of ``psc.convert``: from these ``psc.training.checkpoints`` builds the
network again.
"""

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from psc.applications import build_application
from psc.config.schema import TrainConfig
from psc.conversion import ConversionReport, calibrate, match_features
from psc.conversion.conversion import ConversionArguments
from psc.conversion.factors import Initialisation
from psc.errors import ConfigError
from psc.files import check_output
from psc.training.checkpoints import (
    CONFIG_KEY,
    CONVERSION_KEY,
    NETWORK_PREFIX,
    SEEN_KEY,
    AtomicCheckpointIO,
    read_checkpoint,
)
from psc.training.hardware import inference_device


@dataclass
class ConvertConfig(ConversionArguments):
    """Everything that ``scripts/convert.py`` takes."""

    checkpoint: str = MISSING  # of train.py
    output: str = MISSING  # the file to write
    report: str | None = None  # a JSON file for what became of every layer, and matching's losses
    init: str = "svd"  # or "random"
    calibrate: bool | None = None
    """On a batch of training data, without labels; null: where these are read in any case."""
    match_steps: int = 0  # of feature matching, on training data without labels; 0: none
    match_learning_rate: float = 1e-3  # its first one
    accelerator: str = "auto"  # where to match: "cpu" or "gpu"
    overwrite: bool = False  # whether ``output`` may exist


def convert_checkpoint(config: ConvertConfig) -> tuple[ConversionReport, list[float]]:
    """Write a checkpoint of ``block=3d``, converted; its report and the losses of matching.

    Where n > 1 (whose chains of layers one batch shows), and for any correction, the training data
    of the checkpoint's configuration are read.
    """
    source, output, steps = Path(config.checkpoint), Path(config.output), config.match_steps
    if config.init not in get_args(Initialisation):
        known = ", ".join(get_args(Initialisation))
        raise ConfigError(f"init must be one of {known}; got {config.init!r}")
    check_output(output, overwrite=config.overwrite, source=source)
    if config.report is not None:
        report_file = Path(config.report)
        if report_file.absolute() == output.absolute():
            raise ConfigError(f"report={report_file} is the output, too; give another file")
        check_output(report_file, overwrite=config.overwrite, source=source, key="report")
    if steps < 0:
        raise ConfigError(f"match_steps must not be negative, got {steps}")
    device = inference_device(config.accelerator)
    calibrates = config.calibrate
    if calibrates is None:
        calibrates = config.n > 1 or steps > 0
    corrects = calibrates or steps > 0
    checkpoint = read_checkpoint(source)
    if checkpoint.conversion is not None:
        raise ConfigError(f"checkpoint={source} is converted already; convert the one it came from")
    trained, network = checkpoint.config, checkpoint.network()
    original = copy.deepcopy(network) if corrects else network
    inputs = _inputs(trained, network) if config.n > 1 or corrects else iter(())
    example = next(inputs) if config.n > 1 else None
    own = {field.name: getattr(config, field.name) for field in fields(ConversionArguments)}
    arguments = ConversionArguments(**own)
    init: Initialisation = "random" if config.init == "random" else "svd"
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
    if steps:
        rate = config.match_learning_rate
        how: dict[str, Any] = {"steps": steps, "learning_rate": rate, "progress": True}
        losses = match_features(original, conversion, batches, **how)
    network.cpu()
    if config.n > 1:
        arguments = replace(arguments, runs=[list(run) for run in report.runs])
    written = {
        "state_dict": {f"{NETWORK_PREFIX}{k}": v for k, v in network.state_dict().items()},
        "global_step": checkpoint.iterations,
        CONFIG_KEY: checkpoint.content[CONFIG_KEY],
        CONVERSION_KEY: asdict(arguments),
        **{key: checkpoint.content[key] for key in (SEEN_KEY,) if key in checkpoint.content},
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
