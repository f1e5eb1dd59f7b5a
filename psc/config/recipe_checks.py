"""Ranges of a recipe's values, checked before any data is read."""

from psc.config.augmentation import build_affinity_augmentation, build_tissue_augmentation
from psc.config.check_values import at_least, interval, require
from psc.config.schema import (
    AffinityRecipeConfig,
    RecipeConfig,
    ScheduleConfig,
    TissueRecipeConfig,
    VideoRecipeConfig,
)
from psc.errors import ConfigError

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
