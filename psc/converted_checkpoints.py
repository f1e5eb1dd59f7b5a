"""Checkpoints of converted networks, written from those of train.py.

A converted checkpoint holds the weights, the configuration that the ORIGINAL network was trained
with, and the arguments of ``psc.convert``: from these ``psc.checkpoint_network`` builds the network
again.
"""

from dataclasses import asdict
from pathlib import Path

from psc.checkpoint_network import checkpoint_network
from psc.checkpoints import (
    CONFIG_KEY,
    CONVERSION_KEY,
    NETWORK_PREFIX,
    AtomicCheckpointIO,
    load_checkpoint,
    stored_config,
)
from psc.config.plain import from_plain
from psc.conversion import ConversionReport
from psc.conversion.arguments import ConversionArguments
from psc.conversion.factors import Initialisation
from psc.errors import ConfigError


def convert_checkpoint(
    source: Path,
    output: Path,
    arguments: ConversionArguments,
    *,
    init: Initialisation = "svd",
    overwrite: bool = False,
) -> ConversionReport:
    """Write the checkpoint of a converted network.

    Args:
        source: a checkpoint of train.py with 3D convolutions (``block=3d``).
        output: the file to write.
        arguments: how to convert.
        init: "svd" or "random".
        overwrite: whether ``output`` may exist.

    Raises:
        CheckpointError: if the source cannot be read or the output not be written.
        ConfigError: if the output exists, or there is nothing to convert.
    """
    if output.exists() and not overwrite:
        raise ConfigError(f"output={output} exists; give another file, or overwrite=true")
    checkpoint = load_checkpoint(source)
    if CONVERSION_KEY in checkpoint:
        raise ConfigError(f"checkpoint={source} is converted already; convert the one it came from")
    trained = from_plain(stored_config(checkpoint, source), source)
    network = checkpoint_network(trained, checkpoint, source)
    report = arguments.apply(network, init)
    if not report.converted:
        raise ConfigError(
            f"checkpoint={source} has no 3D convolution to convert; only networks of block=3d have"
        )
    written = {
        "state_dict": {f"{NETWORK_PREFIX}{k}": v for k, v in network.state_dict().items()},
        "global_step": int(checkpoint.get("global_step", 0)),
        CONFIG_KEY: checkpoint[CONFIG_KEY],
        CONVERSION_KEY: asdict(arguments),
    }
    AtomicCheckpointIO().save_checkpoint(written, output)
    return report
