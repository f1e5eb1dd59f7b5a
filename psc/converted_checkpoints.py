"""Checkpoints of converted networks: written from those of train.py, read into a network again.

A converted checkpoint holds the weights, the configuration that the ORIGINAL network was trained
with, and the arguments of ``psc.convert``: from these the network is built again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

from psc.build import build_network
from psc.checkpoints import (
    CONFIG_KEY,
    NETWORK_PREFIX,
    AtomicCheckpointIO,
    load_checkpoint,
    load_network_weights,
    stored_config,
)
from psc.config.plain import from_plain
from psc.config.schema import ResNetConfig
from psc.conversion import ConversionReport, convert
from psc.conversion.factors import Initialisation
from psc.conversion.layer import Merge
from psc.errors import ConfigError
from psc.widths import PUBLISHED_MAXIMUM_WIDTH

CONVERSION_KEY = "psc_conversion"
"""Where a checkpoint holds how its network was converted, as plain containers."""


@dataclass
class ConversionArguments:
    """What of ``psc.convert``'s arguments a network's shape depends on; see there.

    Attributes:
        width: "eq5", "exact", or a number in digits.
        activation: whether a ReLU stands between 2D and 1D convolutions.
    """

    m: int = 1
    n: int = 1
    width: str = "eq5"
    maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH
    include: list[str] | None = None
    exclude: list[str] | None = None
    merge: str = "concatenate"
    activation: bool = False
    unsupported: str = "refuse"

    def apply(self, network: nn.Module, init: Initialisation) -> ConversionReport:
        """Convert a network in place.

        Raises:
            ConfigError: as ``psc.convert``.
        """
        if self.width not in ("eq5", "exact") and not self.width.isdigit():
            raise ConfigError(f"width must be eq5, exact or a number, got {self.width!r}")
        numbers: dict[str, Literal["eq5"] | None] = {"eq5": "eq5", "exact": None}
        return convert(
            network,
            self.m,
            self.n,
            init=init,
            width=numbers[self.width] if self.width in numbers else int(self.width),
            maximum_width=self.maximum_width,
            include=self.include,
            exclude=self.exclude,
            merge=cast(Merge, self.merge),
            activation=nn.ReLU if self.activation else None,
            unsupported=cast(Literal["refuse", "skip"], self.unsupported),
            inplace=True,
        ).report


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
    network = _original_network(checkpoint, source)
    load_network_weights(network, checkpoint, source)
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


def load_converted(path: Path) -> nn.Module:
    """The network of a converted checkpoint (or of any of train.py's), with its weights.

    Raises:
        CheckpointError: if the file is missing, damaged or of another version.
    """
    checkpoint = load_checkpoint(path)
    network = _original_network(checkpoint, path)
    restructure(network, checkpoint)
    load_network_weights(network, checkpoint, path)
    return network


def restructure(network: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Give a network, in place, the layers that its checkpoint was converted to, if it was.

    What must come between building a network and loading a checkpoint that may be a converted one.
    """
    if CONVERSION_KEY in checkpoint:
        ConversionArguments(**checkpoint[CONVERSION_KEY]).apply(network, "random")


def _original_network(checkpoint: Mapping[str, Any], path: Path) -> nn.Module:
    trained = from_plain(stored_config(checkpoint, path), path)
    backbone = trained.backbone
    if isinstance(backbone, ResNetConfig):
        backbone = replace(backbone, weights=None)  # the checkpoint's follow
    return build_network(backbone, trained.block)
