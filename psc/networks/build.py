"""From configuration to network: the configuration → builder table."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from psc.accounting.forward import counting
from psc.block.unit import UnitFactory, make_unit
from psc.config.schema import BackboneConfig, BlockConfig, DenseNetConfig, ResNetConfig, UNetConfig
from psc.errors import ConfigError
from psc.networks.densenet import DenseNet, layers_per_segment
from psc.networks.named import Network
from psc.networks.resnet import ResNet
from psc.networks.unet import UNet
from psc.networks.weights import load_weights

PAPER_OUTPUT_SIZE = 44
"""Affinities that one training patch of the paper's U-Net teaches, along each axis."""

PAPER_INPUT_SIZE = 64
"""Voxels, or frames, of one training sample of the paper's ResNet and DenseNet, along each axis."""


def build_unit(block: BlockConfig) -> UnitFactory:
    """The unit factory of a block's configuration."""
    arguments = asdict(block)
    del arguments["name"]
    return make_unit(**arguments)


def build_network(backbone: BackboneConfig, block: BlockConfig) -> Network:
    """The network of a backbone's and a block's configuration.

    Freshly initialised, or with the weights that ``backbone.weights`` names.
    """
    arguments = asdict(backbone)
    name, weights = arguments.pop("name"), arguments.pop("weights", None)
    for key in ("classes", "out_channels"):
        if arguments.get(key, 0) is None:
            del arguments[key]  # as published
    for kind, network in _NETWORKS.items():
        if isinstance(backbone, kind):
            if arguments.get("layers_per_segment", 0) is None:
                arguments["layers_per_segment"] = layers_per_segment(block.n or 1)
            built = network(build_unit(block), **arguments)
            if weights is not None and not next(built.parameters()).is_meta:
                load_weights(built, Path(weights))
            return built
    raise ConfigError(f"backbone={name}: there is no network of that name")


def build_network_on_meta(backbone: BackboneConfig, block: BlockConfig) -> Network:
    """``build_network`` without memory or initial values: for sizes and counts."""
    with torch.device("meta"), _NoInitialValues():
        return build_network(backbone, block)


_KNOWN: dict[str, Network] = {}


def network_on_meta(backbone: BackboneConfig, block: BlockConfig) -> Network:
    """The same, built once for rows of a table, runs of a sweep: not to be changed."""
    key = repr((backbone, block))
    if key not in _KNOWN:
        _KNOWN[key] = build_network_on_meta(backbone, block)
    return _KNOWN[key]


class _NoInitialValues(TorchFunctionMode):
    """Leaves out what would fill weights that have no memory: half the time of building them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


_NETWORKS: dict[type[BackboneConfig], Callable[..., Network]] = {
    UNetConfig: UNet,
    ResNetConfig: ResNet,
    DenseNetConfig: DenseNet,
}


def paper_input_shape(backbone: BackboneConfig, network: nn.Module) -> tuple[int, ...]:
    """(1, C, D, H, W) of one training sample in the paper.

    U-Net: what gives 44 voxels (132 of them, 178 where n is 3); ResNet: 64 frames of 64×64;
    DenseNet: 64 voxels (Bui et al., whom the paper follows).
    """
    if isinstance(backbone, UNetConfig) and isinstance(network, UNet):
        return (1, backbone.in_channels, *(network.input_size_for(PAPER_OUTPUT_SIZE),) * 3)
    assert isinstance(backbone, ResNetConfig | DenseNetConfig)
    return (1, backbone.in_channels, *(PAPER_INPUT_SIZE,) * 3)


def forward_flops(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """FLOPs (two per multiply-add) of a forward pass of a network on the meta device.

    It is put into evaluation mode, in which batch norm takes a single sample.
    """
    with torch.device("meta"), counting() as (counter, _):
        network.eval()(torch.zeros(input_shape))
    return int(counter.get_total_flops())
