"""Ranges and combinations that the types of the schema cannot express.

All of it runs before any data is read. Every message names the key, the value found and the
values allowed.
"""

from pathlib import Path

from psc.config.check_values import at_least, require
from psc.config.dataset_checks import check_dataset
from psc.config.recipe_checks import check_recipe
from psc.config.schema import (
    BackboneConfig,
    BlockConfig,
    DenseNetConfig,
    ResNetConfig,
    SegmentationConfig,
    TrainConfig,
    TrainerConfig,
    UNetConfig,
)
from psc.config.task_checks import check_task
from psc.errors import ConfigError
from psc.streams import MERGES

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
    from psc.build import build_network_on_meta

    build_network_on_meta(backbone, block)


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
