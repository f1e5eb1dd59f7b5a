"""From configuration to network: the name → builder table."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from psc.backbones import UNet
from psc.config.schema import (
    AffinityRecipeConfig,
    BackboneConfig,
    BlockConfig,
    SegmentationConfig,
    UNetConfig,
)
from psc.errors import ConfigError
from psc.segmentation.pipeline import SegmentationOptions
from psc.segments import SegmentFactory, make_segment


def build_segment(block: BlockConfig) -> SegmentFactory:
    """The segment factory of a block's configuration.

    Raises:
        ConfigError: for an unknown kind or an impossible (m, n).
    """
    if block.kind == "conv3d":
        return make_segment("conv3d")
    if block.kind != "psc" or block.m is None or block.n is None:
        raise ConfigError(f"block.kind={block.kind}, m={block.m}, n={block.n} is not a block")
    return make_segment("psc", m=block.m, n=block.n, maximum_width=block.maximum_width)


def build_network(backbone: BackboneConfig, block: BlockConfig) -> UNet:
    """The network of a backbone's and a block's configuration, freshly initialised.

    Raises:
        ConfigError: for a backbone that does not exist, or sizes that cannot work.
    """
    if isinstance(backbone, UNetConfig):
        return UNet(
            build_segment(block),
            base_width=backbone.base_width,
            growth=backbone.growth,
            depth=backbone.depth,
            padding="same" if backbone.padding == "same" else "valid",
        )
    raise ConfigError(f"backbone={backbone.name}: known are unet")


def build_network_on_meta(backbone: BackboneConfig, block: BlockConfig) -> UNet:
    """The same without memory or initialisation: for sizes and counts."""
    with torch.device("meta"):
        return build_network(backbone, block)


def patch_input_size(recipe: AffinityRecipeConfig, network: UNet) -> int:
    """Voxels along each axis of a training patch's input.

    Raises:
        ConfigError: if the network cannot take ``recipe.input_size``; the nearest are named.
    """
    if recipe.input_size is None:
        return network.input_size_for(recipe.output_size)
    try:
        network.output_size(recipe.input_size)
    except ConfigError as error:
        raise ConfigError(f"recipe.input_size={recipe.input_size}: {error}") from None
    return recipe.input_size


def build_segmentation_options(config: SegmentationConfig) -> SegmentationOptions:
    """The core's options of a configuration.

    Raises:
        ConfigError: if a value is impossible.
    """
    return SegmentationOptions(
        fragments="waterz" if config.fragments == "waterz" else "seeded",
        boundary_threshold=config.boundary_threshold,
        seed_smoothing=config.seed_smoothing,
        minimum_seed_distance=config.minimum_seed_distance,
        low=config.low,
        high=config.high,
        scoring=config.scoring,
        thresholds=tuple(config.thresholds),
    )


def forward_flops(network: UNet, input_size: int) -> int:
    """FLOPs (two per multiply-add) of one patch's forward pass, counted without computing it.

    Args:
        network: on the meta device.
        input_size: voxels along each axis.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, *(input_size,) * 3))
    return int(counter.get_total_flops())
