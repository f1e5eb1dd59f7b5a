"""How a checkpoint becomes a network: built, converted if it was, and given its weights.

A checkpoint of a converted network (``scripts/convert.py``, or a training that began with one)
holds the configuration of the ORIGINAL network and, under ``CONVERSION_KEY``, the arguments of its
conversion. Whatever reads checkpoints comes here, and need not know which kind it has.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from psc.backbones import DenseNet, ResNet, UNet
from psc.build import build_network, build_network_on_meta
from psc.checkpoints import CONVERSION_KEY, check_network_weights, load_network_weights
from psc.config.schema import ResNetConfig, TrainConfig
from psc.conversion.arguments import ConversionArguments
from psc.errors import CheckpointError, ConfigError


def checkpoint_network(
    config: TrainConfig, checkpoint: Mapping[str, Any], path: Path
) -> UNet | ResNet | DenseNet:
    """The network of a checkpoint with its weights, on the CPU.

    Args:
        config: that the checkpoint holds.
        checkpoint: its content.
        path: its file, for messages.

    Raises:
        CheckpointError: if the weights or the conversion are not of that configuration.
        ConfigError: if it builds no network.
    """
    backbone = config.backbone
    if isinstance(backbone, ResNetConfig):
        backbone = replace(backbone, weights=None)  # the checkpoint's follow; that file may be gone
    network = build_network(backbone, config.block)
    load_into(network, checkpoint, path)
    return network


def load_into(network: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Make a checkpoint's network of one that was built from its configuration, in place.

    Parameters of converted layers are new ones: optimisers and wrappers must come after this.

    Raises:
        CheckpointError: as ``checkpoint_network``.
    """
    _restructure(network, conversion_of(checkpoint, path), path)
    load_network_weights(network, checkpoint, path)


def check_fits(config: TrainConfig, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint that ``load_into`` would refuse, without memory for a network.

    Raises:
        CheckpointError: as ``checkpoint_network``.
    """
    check_network_weights(checkpoint_network_on_meta(config, checkpoint, path), checkpoint, path)


def checkpoint_network_on_meta(
    config: TrainConfig, checkpoint: Mapping[str, Any], path: Path
) -> UNet | ResNet | DenseNet:
    """The same network without memory or weights: for sizes and counts.

    Raises:
        CheckpointError: if the conversion does not fit the configuration.
    """
    network = build_network_on_meta(config.backbone, config.block)
    _restructure(network, conversion_of(checkpoint, path), path)
    return network


def conversion_of(checkpoint: Mapping[str, Any], path: Path) -> ConversionArguments | None:
    """How a checkpoint's network was converted; None if it was not.

    Raises:
        CheckpointError: if this version of the code does not know such a conversion.
    """
    if CONVERSION_KEY not in checkpoint:
        return None
    try:
        return ConversionArguments(**checkpoint[CONVERSION_KEY])
    except TypeError as error:
        raise CheckpointError(
            f"{path} was converted by another version of this code: {error}"
        ) from error


def conversion_record(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What a record's ``data`` says of it, as its ``config`` names the original block."""
    return {"conversion": checkpoint[CONVERSION_KEY]} if CONVERSION_KEY in checkpoint else {}


def _restructure(network: nn.Module, conversion: ConversionArguments | None, path: Path) -> None:
    if conversion is None:
        return
    try:
        conversion.apply(network, "random")
    except (ConfigError, AttributeError, TypeError) as error:  # values may be of any type
        raise CheckpointError(
            f"{path} is of a converted network, but its configuration's cannot be converted so "
            f"({error}); it belongs to another backbone or block"
        ) from error
