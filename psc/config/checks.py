"""Ranges and combinations that the types of the schema cannot express.

All of it runs before any data is read. Every message names the key, the value found and the
values allowed.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

from psc.block.stream import MERGES
from psc.config.schema import (
    AffinityRecipeConfig,
    AugmentationConfig,
    BackboneConfig,
    BlockConfig,
    DatasetConfig,
    DenseNetConfig,
    FibsemConfig,
    IBSRConfig,
    RecipeConfig,
    ResNetConfig,
    ScheduleConfig,
    SegmentationConfig,
    SlabConfig,
    TissueAugmentationConfig,
    TissueRecipeConfig,
    TrainConfig,
    TrainerConfig,
    UCF101Config,
    UNetConfig,
    VideoRecipeConfig,
)
from psc.em.augmentation import Augmentation, Deformation, SectionDefects
from psc.errors import ConfigError
from psc.mri.patches import TissueAugmentation
from psc.mri.tissues import CLASSES

# ----------------------------------------
# What every check says when a value cannot work: the key, the value found, the values allowed.


def require(key: str, value: Any, allowed: Collection[Any]) -> None:
    """Refuse a choice that there is not."""
    if value not in allowed:
        names = ", ".join(str(choice).lower() for choice in allowed)
        raise ConfigError(f"{key}={value}: allowed are {names}")


def at_least(key: str, value: int, minimum: int) -> None:
    """Refuse a number that is too small."""
    if value < minimum:
        raise ConfigError(f"{key}={value}: must be at least {minimum}")


def interval(key: str, value: Sequence[float]) -> None:
    """Refuse what is no interval."""
    if len(value) != 2 or value[0] > value[1]:
        raise ConfigError(f"{key}={list(value)}: must be [low, high] with low ≤ high")


# ----------------------------------------
# The augmentations that recipes describe; refused where a value cannot work.


def build_affinity_augmentation(config: AugmentationConfig) -> Augmentation:
    """The augmentation of EM patches.

    Raises:
        ConfigError: if a value is impossible.
    """
    moving, defects = config.deformation, config.defects
    # Lists of another length than the tuples' are refused by the classes themselves.
    with _keys_below("recipe.augmentation.deformation."):
        deformation = Deformation(
            spacing=tuple(moving.spacing),  # type: ignore[arg-type]
            jitter=tuple(moving.jitter),  # type: ignore[arg-type]
            rotation=moving.rotation,
            offset=moving.offset,
            slip=moving.slip,
            shift=moving.shift,
        )
    with _keys_below("recipe.augmentation.defects."):
        section_defects = SectionDefects(
            missing=defects.missing,
            low_contrast=defects.low_contrast,
            contrast=tuple(defects.contrast),  # type: ignore[arg-type]
            blur=defects.blur,
            blur_sd=defects.blur_sd,
        )
    with _keys_below("recipe.augmentation: "):
        return Augmentation(
            reflections=config.reflections,
            axis_swaps=config.axis_swaps,  # type: ignore[arg-type]  # checked by the class
            contrast=(config.contrast[0], config.contrast[1]),
            brightness=(config.brightness[0], config.brightness[1]),
            deformation=deformation,
            defects=section_defects,
        )


def build_tissue_augmentation(config: TissueAugmentationConfig) -> TissueAugmentation:
    """The augmentation of MRI patches.

    Raises:
        ConfigError: if a value is impossible.
    """
    right, anterior, superior = config.reflections
    return TissueAugmentation(
        reflections=(right, anterior, superior),
        rotation=config.rotation,
        scaling=(config.scaling[0], config.scaling[1]),
        contrast=(config.contrast[0], config.contrast[1]),
        brightness=(config.brightness[0], config.brightness[1]),
        noise=config.noise,
    )


@contextmanager
def _keys_below(prefix: str) -> Iterator[None]:
    """Complete the keys that messages begin with."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error


# ----------------------------------------
# Ranges and combinations of a data set's configuration, checked before any data is read.


def check_dataset(dataset: DatasetConfig) -> None:
    """Ranges and choices; slabs of EM volumes well-formed and disjoint between splits.

    Raises:
        ConfigError: naming the key, or the split and the slab.
    """
    if isinstance(dataset, UCF101Config):
        require("dataset.split", dataset.split, (1, 2, 3))
        for key, minimum in (("classes", 2), ("validation_groups", 1), ("short_side", 1)):
            at_least(f"dataset.{key}", getattr(dataset, key), minimum)
    if isinstance(dataset, IBSRConfig):
        _check_ibsr(dataset)
    if isinstance(dataset, FibsemConfig):
        _check_fibsem(dataset)


def _check_ibsr(dataset: IBSRConfig) -> None:
    require("dataset.labels", dataset.labels, ("filled", "unfilled"))
    voxel = dataset.voxel_size
    if voxel is not None and not (len(voxel) == 3 and min(voxel) > 0):
        raise ConfigError(f"dataset.voxel_size={voxel}: must be three positive mm, or null")
    if dataset.folds is not None:
        at_least("dataset.folds", dataset.folds, 2)
        at_least("dataset.validation_subjects", dataset.validation_subjects, 1)
        if not 0 <= dataset.fold < dataset.folds:
            raise ConfigError(
                f"dataset.fold={dataset.fold}: must lie in [0, {dataset.folds}), the number of "
                "dataset.folds"
            )


def _check_fibsem(dataset: FibsemConfig) -> None:
    require("dataset.zero_label", dataset.zero_label, ("ignore", "boundary"))
    at_least("dataset.boundary_thickness", dataset.boundary_thickness, 0)
    bounds = dataset.intensity_range
    if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
        raise ConfigError(
            f"dataset.intensity_range={bounds}: must be [low, high] with low < high, or null"
        )
    voxel = dataset.voxel_size
    if voxel is not None and not (len(voxel) == 3 and min(voxel) > 0):
        raise ConfigError(f"dataset.voxel_size={voxel}: must be three positive nm, or null")
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    for name, slabs in splits.items():
        if not slabs:
            raise ConfigError(f"dataset.{name} is empty: name at least one volume or slab")
        for i, slab in enumerate(slabs):
            _check_slab(f"dataset.{name}[{i}]", slab)
    for (name, slabs), (other, others) in combinations(splits.items(), 2):
        for a in slabs:
            for b in others:
                if a.raw == b.raw and a.raw_key == b.raw_key and _overlap(a.z, b.z):
                    raise ConfigError(
                        f"dataset.{name} and dataset.{other} overlap: both hold {a.raw}, "
                        f"z={a.z} and z={b.z}; give them slabs that share no slice"
                    )


def _check_slab(key: str, slab: SlabConfig) -> None:
    if slab.z is not None and not (len(slab.z) == 2 and 0 <= slab.z[0] < slab.z[1]):
        raise ConfigError(f"{key}.z={slab.z}: must be [start, stop] with 0 ≤ start < stop")
    synthetic = slab.synthetic
    if synthetic is not None and (len(synthetic.shape) != 3 or min(synthetic.shape) < 1):
        raise ConfigError(f"{key}.synthetic.shape={synthetic.shape}: must be three sizes ≥ 1")


def _overlap(a: Sequence[int] | None, b: Sequence[int] | None) -> bool:
    """Whether two ranges [start, stop) share a slice; None is the whole volume."""
    return a is None or b is None or (a[0] < b[1] and b[0] < a[1])


# ----------------------------------------
# Ranges of a recipe's values, checked before any data is read.


AFFINITY_LOSSES = (
    "balanced_squared_error",
    "balanced_cross_entropy",
    "squared_error",
    "cross_entropy",
)
MALIS_NORMALIZATIONS = ("counted", "labelled")
TISSUE_LOSSES = ("cross_entropy", "dice", "dice_cross_entropy")
SCHEDULES = ("constant", "inverse", "step", "cosine")
BLENDING = ("constant", "gaussian")


def check_recipe(recipe: RecipeConfig) -> None:
    """Iterations, optimiser, schedule, and what the task's own recipe adds.

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
    _check_schedule(recipe.schedule)
    if isinstance(recipe, AffinityRecipeConfig):
        _check_affinity(recipe)
    if isinstance(recipe, VideoRecipeConfig):
        _check_video(recipe)
    if isinstance(recipe, TissueRecipeConfig):
        _check_tissue(recipe)


def _check_schedule(schedule: ScheduleConfig) -> None:
    require("recipe.schedule.name", schedule.name, SCHEDULES)
    if schedule.name == "step":
        at_least("recipe.schedule.step_size", schedule.step_size, 1)
        if not 0 < schedule.gamma <= 1:
            raise ConfigError(f"recipe.schedule.gamma={schedule.gamma}: must lie in (0, 1]")


def _check_affinity(recipe: AffinityRecipeConfig) -> None:
    require("recipe.loss", recipe.loss, AFFINITY_LOSSES)
    require("recipe.malis_normalization", recipe.malis_normalization, MALIS_NORMALIZATIONS)
    if recipe.malis_from is not None and not 0 <= recipe.malis_from < recipe.iterations:
        raise ConfigError(
            f"recipe.malis_from={recipe.malis_from}: must lie in [0, {recipe.iterations}), the "
            "number of recipe.iterations; null trains without MALIS"
        )
    at_least("recipe.output_size", recipe.output_size, 1)
    at_least("recipe.validation_patches", recipe.validation_patches, 1)
    augmentation = recipe.augmentation
    require("recipe.augmentation.axis_swaps", augmentation.axis_swaps, ("all", "yx", "none"))
    for key in ("contrast", "brightness"):
        interval(f"recipe.augmentation.{key}", getattr(augmentation, key))
    build_affinity_augmentation(augmentation)


def _check_video(recipe: VideoRecipeConfig) -> None:
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
        raise ConfigError(f"recipe.label_smoothing={recipe.label_smoothing}: must lie in [0, 1)")
    if not recipe.mixup >= 0:
        raise ConfigError(f"recipe.mixup={recipe.mixup}: must be at least 0 (0: none)")


def _check_tissue(recipe: TissueRecipeConfig) -> None:
    require("recipe.loss", recipe.loss, TISSUE_LOSSES)
    require("recipe.blending", recipe.blending, BLENDING)
    for key in ("patch_size", "validation_patches", "evaluation_batch_size"):
        at_least(f"recipe.{key}", getattr(recipe, key), 1)
    if not 0 <= recipe.foreground_share <= 1:
        raise ConfigError(f"recipe.foreground_share={recipe.foreground_share}: must lie in [0, 1]")
    if not 0 <= recipe.overlap < 1:
        raise ConfigError(f"recipe.overlap={recipe.overlap}: must lie in [0, 1)")
    augmentation = recipe.augmentation
    if len(augmentation.reflections) != 3:
        raise ConfigError(
            f"recipe.augmentation.reflections={augmentation.reflections}: must be three of true or "
            "false (right, anterior, superior)"
        )
    for key in ("scaling", "contrast", "brightness"):
        interval(f"recipe.augmentation.{key}", getattr(augmentation, key))
    build_tissue_augmentation(augmentation)


# ----------------------------------------
# Backbone, data set and recipe must belong to one task, and a sample must fit the network.


def check_task(config: TrainConfig) -> None:
    """Whether backbone, data set and recipe can work together.

    Raises:
        ConfigError: naming what does not fit, and what does.
    """
    if isinstance(config.backbone, ResNetConfig):
        _check_video_task_checks(config, config.backbone)
    if isinstance(config.backbone, DenseNetConfig):
        _check_tissue_task_checks(config, config.backbone)
    if isinstance(config.backbone, UNetConfig):
        _check_affinity_task_checks(config, config.backbone)


def _check_affinity_task_checks(config: TrainConfig, backbone: UNetConfig) -> None:
    if not isinstance(config.dataset, FibsemConfig):
        raise _other_data(config, "predicts affinities", "fibsem")
    if not isinstance(config.recipe, AffinityRecipeConfig):
        raise _other_recipe(config)
    for key, needed in (("in_channels", 1), ("out_channels", 3)):
        if getattr(backbone, key) != needed:
            raise ConfigError(f"backbone.{key}={getattr(backbone, key)}: affinities take {needed}")
    # Late, because the builders import the schema's package.
    from psc.networks.build import build_volume_network, patch_input_size

    network = build_volume_network(config.backbone, config.block, meta=True)
    patch_input_size(config.recipe, network)
    tile, smallest = config.segmentation.tile_input, network.input_size_for(network.period)
    if tile is not None and tile < smallest:
        raise ConfigError(
            f"segmentation.tile_input={tile}: the network needs tiles of at least {smallest} "
            "voxels; null takes the training patch's size"
        )


def _check_video_task_checks(config: TrainConfig, backbone: ResNetConfig) -> None:
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


def _check_tissue_task_checks(config: TrainConfig, backbone: DenseNetConfig) -> None:
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
    from psc.networks.build import build_volume_network, sample_shape

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
    check_task(config)
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
        ConfigError: for an unknown kind or merge, m outside 1–3, n < 1, or a cap or divisor below
            1.
    """
    require("block.kind", block.kind, ("conv3d", "psc"))
    require("block.merge", block.merge, MERGES)
    if block.kind == "conv3d":
        if block.m is not None or block.n is not None:
            raise ConfigError(
                f"block.m={block.m}, block.n={block.n}: plain 3D convolutions have neither; use "
                "block=psc block.m=… block.n=…"
            )
        if block.merge != "concatenate":
            raise ConfigError(
                f"block.merge={block.merge}: plain 3D convolutions have no streams to merge; use "
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
    from psc.networks.build import build_network_on_meta

    build_network_on_meta(backbone, block)


def check_segmentation(segmentation: SegmentationConfig) -> None:
    """Fragments, scoring, thresholds, tiles.

    Raises:
        ConfigError: for an unknown choice or a value out of range.
    """
    from psc.networks.build import build_segmentation_options

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
