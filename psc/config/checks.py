"""Ranges and combinations that the types of the schema cannot express.

All of it runs before any data is read. Every message names the key, the value found and the
values allowed.
"""

from pathlib import Path

from psc.config.check_values import at_least, interval, require
from psc.config.dataset_checks import check_dataset
from psc.config.schema import (
    AffinityRecipeConfig,
    BackboneConfig,
    BlockConfig,
    DenseNetConfig,
    FibsemConfig,
    RecipeConfig,
    ResNetConfig,
    SegmentationConfig,
    TrainConfig,
    TrainerConfig,
    UCF101Config,
    UNetConfig,
    VideoRecipeConfig,
)
from psc.errors import ConfigError

LOSSES = ("balanced_squared_error", "balanced_cross_entropy", "squared_error", "cross_entropy")
SCHEDULES = ("constant", "inverse", "cosine")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


def check_train(config: TrainConfig) -> None:
    """Check a whole training configuration.

    Raises:
        ConfigError: naming the first key that cannot work.
    """
    check_block(config.block)
    check_backbone(config.backbone, config.block)
    check_recipe(config.recipe)
    check_segmentation(config.segmentation)
    check_trainer(config.trainer)
    check_dataset(config.dataset)
    _check_task(config)
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"seed={config.seed}: must lie in [0, 2³²)")
    require("logger.mode", config.logger.mode, ("auto", "online", "offline"))
    if not isinstance(config.resume, bool | str):
        raise ConfigError(
            f"resume={config.resume!r}: allowed are true, false, or a checkpoint's path"
        )


def check_block(block: BlockConfig) -> None:
    """m, n and the kind of block.

    Raises:
        ConfigError: for an unknown kind, m outside 1–3, n < 1, or a cap below 1.
    """
    require("block.kind", block.kind, ("conv3d", "psc"))
    if block.kind == "conv3d":
        if block.m is not None or block.n is not None:
            raise ConfigError(
                f"block.m={block.m}, block.n={block.n}: plain 3D convolutions have neither; use "
                "block=psc block.m=… block.n=…"
            )
        return
    if block.m not in (1, 2, 3):
        raise ConfigError(f"block.m={block.m}: allowed are 1, 2 and 3 (streams, one per axis)")
    if block.n is None or block.n < 1:
        raise ConfigError(f"block.n={block.n}: must be at least 1 (2D convolutions per stream)")
    if block.maximum_width is not None and block.maximum_width < 1:
        raise ConfigError(
            f"block.maximum_width={block.maximum_width}: must be at least 1, or null for no cap"
        )
    if block.width_divisor is not None and block.width_divisor < 1:
        raise ConfigError(
            f"block.width_divisor={block.width_divisor}: must be at least 1, or null for m"
        )


def check_backbone(backbone: BackboneConfig, block: BlockConfig) -> None:
    """Sizes of the backbone, and whether it can be built of such blocks.

    Raises:
        ConfigError: for a size out of range, an unknown choice, or weights that do not exist.
    """
    if isinstance(backbone, UNetConfig):
        for key in ("in_channels", "out_channels", "base_width", "growth", "depth"):
            at_least(f"backbone.{key}", getattr(backbone, key), 1)
        require("backbone.padding", backbone.padding, ("valid", "same"))
    if isinstance(backbone, ResNetConfig):
        require("backbone.stem", backbone.stem, ("conv3d", "factorised"))
        require("backbone.shortcut", backbone.shortcut, ("projection", "identity"))
        if backbone.weights is not None and not Path(backbone.weights).is_file():
            raise ConfigError(
                f"backbone.weights={backbone.weights}: no such file; null starts from random values"
            )
    if isinstance(backbone, DenseNetConfig):
        require("backbone.upsampling", backbone.upsampling, ("interpolation", "transposed"))
        if (backbone.layers_per_segment or 1) > 1 and (block.n or 1) == 1:
            raise ConfigError(
                f"backbone.layers_per_segment={backbone.layers_per_segment} needs a block with "
                f"n ≥ 2; block={block.name} replaces every convolution by itself (null chooses)"
            )
    # The builder knows the rest: sizes that its network cannot have, more streams than channels.
    from psc.build import build_network_on_meta

    build_network_on_meta(backbone, block)


def check_recipe(recipe: RecipeConfig) -> None:
    """Iterations, optimiser, schedule, loss.

    Raises:
        ConfigError: for a value out of range.
    """
    for key in ("iterations", "validate_every", "batch_size"):
        at_least(f"recipe.{key}", getattr(recipe, key), 1)
    if recipe.max_minutes is not None and not recipe.max_minutes > 0:
        raise ConfigError(f"recipe.max_minutes={recipe.max_minutes}: must be positive, or null")
    optimizer = recipe.optimizer
    if not optimizer.learning_rate > 0:
        raise ConfigError(
            f"recipe.optimizer.learning_rate={optimizer.learning_rate}: must be positive"
        )
    for key in ("weight_decay", "bias_learning_rate_factor"):
        if not getattr(optimizer, key) >= 0:
            raise ConfigError(
                f"recipe.optimizer.{key}={getattr(optimizer, key)}: must be at least 0"
            )
    if not optimizer.epsilon > 0:
        raise ConfigError(f"recipe.optimizer.epsilon={optimizer.epsilon}: must be positive")
    betas = optimizer.betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"recipe.optimizer.betas={betas}: must be two numbers in [0, 1)")
    require("recipe.schedule.name", recipe.schedule.name, SCHEDULES)
    if isinstance(recipe, AffinityRecipeConfig):
        require("recipe.loss", recipe.loss, LOSSES)
        at_least("recipe.output_size", recipe.output_size, 1)
        at_least("recipe.validation_patches", recipe.validation_patches, 1)
        augmentation = recipe.augmentation
        require("recipe.augmentation.axis_swaps", augmentation.axis_swaps, ("all", "yx", "none"))
        for key in ("contrast", "brightness"):
            interval(f"recipe.augmentation.{key}", getattr(augmentation, key))

    if isinstance(recipe, VideoRecipeConfig):
        for key in (
            "frames",
            "temporal_stride",
            "size",
            "validation_clips",
            "test_clips",
            "evaluation_batch_size",
        ):
            at_least(f"recipe.{key}", getattr(recipe, key), 1)
        if not 0 <= recipe.label_smoothing < 1:
            raise ConfigError(
                f"recipe.label_smoothing={recipe.label_smoothing}: must lie in [0, 1)"
            )
        if not recipe.mixup >= 0:
            raise ConfigError(f"recipe.mixup={recipe.mixup}: must be at least 0 (0: none)")


def check_segmentation(segmentation: SegmentationConfig) -> None:
    """Fragments, scoring, thresholds, tiles.

    Raises:
        ConfigError: for an unknown choice or a value out of range.
    """
    from psc.build import build_segmentation_options  # late: it imports the schema's package

    try:
        build_segmentation_options(segmentation)
    except ConfigError as error:
        raise ConfigError(f"segmentation: {error}") from None
    at_least("segmentation.batch_size", segmentation.batch_size, 1)


def check_trainer(trainer: TrainerConfig) -> None:
    """Precision, compilation, worker processes.

    Raises:
        ConfigError: for an unknown choice.
    """
    require("trainer.accelerator", trainer.accelerator, ("auto", "cpu", "gpu", "mps"))
    require("trainer.precision", trainer.precision, PRECISIONS)
    require("trainer.compile", trainer.compile, ("auto", True, False))
    at_least("trainer.num_nodes", trainer.num_nodes, 1)
    workers = trainer.workers
    if workers != "auto" and (isinstance(workers, bool) or not isinstance(workers, int)):
        raise ConfigError(f"trainer.workers={workers!r}: allowed are auto or a number of processes")
    if workers != "auto":
        at_least("trainer.workers", workers, 0)


def _check_task(config: TrainConfig) -> None:
    """Backbone, data set and recipe must belong to one task, and the patch must fit the network."""
    if isinstance(config.backbone, ResNetConfig):
        _check_video(config, config.backbone)
    if not isinstance(config.backbone, UNetConfig):
        return
    if not isinstance(config.dataset, FibsemConfig):
        raise ConfigError(
            f"backbone=unet predicts affinities and cannot read dataset={config.dataset.name}; "
            "allowed are fibsem, fibsem_sample, fibsem_synthetic"
        )
    if not isinstance(config.recipe, AffinityRecipeConfig):
        raise ConfigError(f"backbone=unet cannot train with recipe={config.recipe.name}")
    for key, needed in (("in_channels", 1), ("out_channels", 3)):
        if getattr(config.backbone, key) != needed:
            raise ConfigError(
                f"backbone.{key}={getattr(config.backbone, key)}: affinities take {needed}"
            )
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
        raise ConfigError(
            f"backbone={backbone.name} classifies videos and cannot read "
            f"dataset={config.dataset.name}; allowed are ucf101, ucf101_sample, ucf101_synthetic"
        )
    if not isinstance(config.recipe, VideoRecipeConfig):
        raise ConfigError(f"backbone={backbone.name} cannot train with recipe={config.recipe.name}")
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
