"""Backbone, data set and recipe must belong to one task, and a sample must fit the network."""

from psc.config.schema import (
    AffinityRecipeConfig,
    DenseNetConfig,
    FibsemConfig,
    IBSRConfig,
    ResNetConfig,
    TissueRecipeConfig,
    TrainConfig,
    UCF101Config,
    UNetConfig,
    VideoRecipeConfig,
)
from psc.datasets.mri.labels import CLASSES
from psc.errors import ConfigError


def check_task(config: TrainConfig) -> None:
    """Whether backbone, data set and recipe can work together.

    Raises:
        ConfigError: naming what does not fit, and what does.
    """
    if isinstance(config.backbone, ResNetConfig):
        _check_video(config, config.backbone)
    if isinstance(config.backbone, DenseNetConfig):
        _check_tissue(config, config.backbone)
    if isinstance(config.backbone, UNetConfig):
        _check_affinity(config, config.backbone)


def _check_affinity(config: TrainConfig, backbone: UNetConfig) -> None:
    if not isinstance(config.dataset, FibsemConfig):
        raise _other_data(config, "predicts affinities", "fibsem")
    if not isinstance(config.recipe, AffinityRecipeConfig):
        raise _other_recipe(config)
    for key, needed in (("in_channels", 1), ("out_channels", 3)):
        if getattr(backbone, key) != needed:
            raise ConfigError(f"backbone.{key}={getattr(backbone, key)}: affinities take {needed}")
    # Late, because the builders import the schema's package.
    from psc.build import build_volume_network, patch_input_size

    network = build_volume_network(config.backbone, config.block, meta=True)
    patch_input_size(config.recipe, network)
    tile, smallest = config.segmentation.tile_input, network.input_size_for(network.period)
    if tile is not None and tile < smallest:
        raise ConfigError(
            f"segmentation.tile_input={tile}: the network needs tiles of at least {smallest} "
            "voxels; null takes the training patch's size"
        )


def _check_video(config: TrainConfig, backbone: ResNetConfig) -> None:
    if not isinstance(config.dataset, UCF101Config):
        raise _other_data(config, "classifies videos", "ucf101")
    if not isinstance(config.recipe, VideoRecipeConfig):
        raise _other_recipe(config)
    if backbone.classes != config.dataset.classes or backbone.in_channels != 3:
        raise ConfigError(
            f"backbone.classes={backbone.classes}, in_channels={backbone.in_channels}: "
            f"dataset={config.dataset.name} has {config.dataset.classes} classes and 3 colours"
        )
    recipe = config.recipe
    if recipe.batch_size == 1 and recipe.frames <= 8 and recipe.size <= 16:
        raise ConfigError(
            f"recipe.batch_size=1 with clips of {recipe.frames}×{recipe.size}×{recipe.size}: batch "
            "norm sees a single value per channel in the last stage; use larger batches or clips"
        )
    if config.recipe.size > config.dataset.short_side:
        raise ConfigError(
            f"recipe.size={config.recipe.size} does not fit into frames whose shorter side is "
            f"dataset.short_side={config.dataset.short_side}"
        )


def _check_tissue(config: TrainConfig, backbone: DenseNetConfig) -> None:
    if not isinstance(config.dataset, IBSRConfig):
        raise _other_data(config, "labels tissues", "ibsr")
    if not isinstance(config.recipe, TissueRecipeConfig):
        raise _other_recipe(config)
    for key, needed in (("in_channels", 1), ("classes", CLASSES)):
        if getattr(backbone, key) != needed:
            raise ConfigError(
                f"backbone.{key}={getattr(backbone, key)}: dataset={config.dataset.name} takes "
                f"{needed} (a T1 volume; background, CSF, GM and WM)"
            )
    # Late, because the builders import the schema's package.
    from psc.build import build_volume_network, sample_shape

    recipe = config.recipe
    sample_shape(recipe, build_volume_network(backbone, config.block, meta=True))
    if recipe.batch_size == 1 and recipe.patch_size == 2**backbone.dense_blocks:
        raise ConfigError(
            f"recipe.batch_size=1 with patches of {recipe.patch_size}³: batch norm sees a single "
            "value per channel in the last dense block; use larger batches or patches"
        )


def _other_data(config: TrainConfig, does: str, reads: str) -> ConfigError:
    return ConfigError(
        f"backbone={config.backbone.name} {does} and cannot read dataset={config.dataset.name}; "
        f"allowed are {reads}, {reads}_sample, {reads}_synthetic"
    )


def _other_recipe(config: TrainConfig) -> ConfigError:
    return ConfigError(
        f"backbone={config.backbone.name} cannot train with recipe={config.recipe.name}"
    )
