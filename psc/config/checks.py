"""What spans two parts of a configuration: they must belong together, and sizes must fit.

All of it runs before any data is read; networks are built without memory. Every message names the
key, the value found and the values allowed.
"""

from pathlib import Path

from torch import nn

from psc.config.compose import TYPES
from psc.config.schema import (
    BackboneConfig,
    BlockConfig,
    DenseNetConfig,
    ResNetConfig,
    TrainConfig,
    UNetConfig,
)
from psc.em.settings import AffinityRecipeConfig, FibsemConfig
from psc.errors import ConfigError, require_packages
from psc.mri.settings import IBSRConfig, OwnMRIConfig, TissueRecipeConfig
from psc.networks.build import network_on_meta
from psc.networks.geometry import VolumeNetwork
from psc.video.settings import OwnVideoConfig, UCF101Config, VideoRecipeConfig


def check_train(config: TrainConfig) -> None:
    """Refuse a training whose backbone, block, data set and recipe cannot work together."""
    network = check_network(config.backbone, config.block)
    if isinstance(config.backbone, UNetConfig):
        _check_affinities(config, config.backbone, network)
    if isinstance(config.backbone, ResNetConfig):
        _check_video(config, config.backbone)
    if isinstance(config.backbone, DenseNetConfig):
        _check_tissues(config, config.backbone, network)


def check_network(backbone: BackboneConfig, block: BlockConfig) -> nn.Module:
    """Refuse a backbone that cannot be built of such blocks, or whose weights are not there.

    What is built is returned, without memory.
    """
    weights = backbone.weights if isinstance(backbone, ResNetConfig) else None
    if weights is not None and not Path(weights).is_file():
        raise ConfigError(
            f"backbone.weights={weights}: no such file; null starts from random values"
        )
    layers = backbone.layers_per_segment if isinstance(backbone, DenseNetConfig) else None
    if (layers or 1) > 1 and (block.n or 1) == 1:
        raise ConfigError(
            f"backbone.layers_per_segment={layers} needs a block with n ≥ 2; block={block.name} "
            "replaces every convolution by itself (null chooses)"
        )
    # It knows the rest: impossible sizes, too many streams.
    return network_on_meta(backbone, block)


def _check_affinities(config: TrainConfig, backbone: UNetConfig, network: nn.Module) -> None:
    require_packages("waterz")
    if not isinstance(config.dataset, FibsemConfig):
        raise _other_data(config, "predicts affinities", "fibsem", "own_em")
    if not isinstance(config.recipe, AffinityRecipeConfig):
        raise _other_recipe(config)
    offsets = config.recipe.offsets
    for key, needed in (("in_channels", 1), ("out_channels", len(offsets))):
        if getattr(backbone, key) != needed:
            raise ConfigError(
                f"backbone.{key}={getattr(backbone, key)}: affinities of grey values with"
                f" recipe.offsets={offsets} take {needed}"
            )
    assert isinstance(network, VolumeNetwork)
    config.recipe.sample_shape(network)
    tile = config.segmentation.tile_input
    if tile is not None and tile < (smallest := network.unpadded().input_size_for(network.period)):
        raise ConfigError(
            f"segmentation.tile_input={tile}: the network needs tiles of at least {smallest} "
            "voxels; null takes four times the voxels of a training patch"
        )


def _check_video(config: TrainConfig, backbone: ResNetConfig) -> None:
    require_packages("av", "decord")
    dataset, recipe = config.dataset, config.recipe
    if not isinstance(dataset, UCF101Config | OwnVideoConfig):
        raise _other_data(config, "classifies videos", "ucf101", "own_video")
    if not isinstance(recipe, VideoRecipeConfig):
        raise _other_recipe(config)
    named = dataset.outputs()
    classes = dataset.classes if named is None else len(named)
    if backbone.classes != classes or backbone.in_channels != 3:
        raise ConfigError(
            f"backbone.classes={backbone.classes}, in_channels={backbone.in_channels}: "
            f"dataset={dataset.name} has {classes} classes and 3 colours (classes=null counts them)"
        )
    if recipe.batch_size == 1 and recipe.frames <= 8 and recipe.size <= 16:
        raise ConfigError(
            f"recipe.batch_size=1 with clips of {recipe.frames}×{recipe.size}×{recipe.size}: batch "
            "norm sees a single value per channel in the last stage; use larger batches or clips"
        )
    if recipe.size > dataset.short_side:
        raise ConfigError(
            f"recipe.size={recipe.size} does not fit into frames whose shorter side is "
            f"dataset.short_side={dataset.short_side}"
        )


def _check_tissues(config: TrainConfig, backbone: DenseNetConfig, network: nn.Module) -> None:
    require_packages("nibabel", "monai")
    recipe = config.recipe
    if not isinstance(config.dataset, IBSRConfig | OwnMRIConfig):
        raise _other_data(config, "labels tissues", "ibsr", "own_mri")
    if not isinstance(recipe, TissueRecipeConfig):
        raise _other_recipe(config)
    outputs = config.dataset.outputs()
    for key, needed in (("in_channels", 1), ("classes", len(outputs))):
        if getattr(backbone, key) != needed:
            raise ConfigError(
                f"backbone.{key}={getattr(backbone, key)}: dataset={config.dataset.name} takes "
                f"{needed} (volumes of one channel; {', '.join(outputs)})"
            )
    assert isinstance(network, VolumeNetwork)
    recipe.sample_shape(network)
    if recipe.batch_size == 1 and recipe.patch_size == 2**backbone.dense_blocks:
        raise ConfigError(
            f"recipe.batch_size=1 with patches of {recipe.patch_size}³: batch norm sees a single "
            "value per channel in the last dense block; use larger batches or patches"
        )


def _other_data(config: TrainConfig, does: str, reads: str, *others: str) -> ConfigError:
    known = ", ".join((reads, f"{reads}_sample", f"{reads}_synthetic", *others))
    fitting = [name for name, parts in TYPES.items() if isinstance(config.dataset, parts[2])]
    return ConfigError(
        f"backbone={config.backbone.name} {does} and cannot read dataset={config.dataset.name}; "
        f"allowed are {known}. That data set is for backbone={' or '.join(fitting)}"
    )


def _other_recipe(config: TrainConfig) -> ConfigError:
    return ConfigError(
        f"backbone={config.backbone.name} cannot train with recipe={config.recipe.name}"
    )
