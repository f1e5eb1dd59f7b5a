"""The typed schema of every configuration: what may be set, its type and its default.

Hydra merges the YAML files of ``configs/`` into these dataclasses, so that an unknown key or a
wrong type is refused before anything runs. Ranges and combinations are checked in
``psc.config.checks``. Sizes are in voxels, intensities in [0, 1] after scaling.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from psc.config.schema.data import (
    DatasetConfig,
    FibsemConfig,
    IBSRConfig,
    SlabConfig,
    SyntheticBrainsConfig,
    SyntheticVideosConfig,
    SyntheticVolumeConfig,
    UCF101Config,
)
from psc.config.schema.networks import (
    BackboneConfig,
    BlockConfig,
    DenseNetConfig,
    ResNetConfig,
    UNetConfig,
)
from psc.config.schema.recipes import (
    AffinityRecipeConfig,
    AugmentationConfig,
    OptimizerConfig,
    RecipeConfig,
    ScheduleConfig,
    TissueAugmentationConfig,
    TissueRecipeConfig,
    VideoRecipeConfig,
)
from psc.config.schema.running import (
    BudgetConfig,
    LoggerConfig,
    SegmentationChanges,
    SegmentationConfig,
    TrainerConfig,
)

__all__ = [
    "AffinityRecipeConfig",
    "AugmentationConfig",
    "BackboneConfig",
    "BlockConfig",
    "BudgetConfig",
    "DatasetConfig",
    "DenseNetConfig",
    "EvaluateConfig",
    "FibsemConfig",
    "IBSRConfig",
    "LoggerConfig",
    "OptimizerConfig",
    "RecipeConfig",
    "ResNetConfig",
    "ScheduleConfig",
    "SegmentConfig",
    "SegmentationChanges",
    "SegmentationConfig",
    "SlabConfig",
    "SummaryConfig",
    "SyntheticBrainsConfig",
    "SyntheticVideosConfig",
    "SyntheticVolumeConfig",
    "TissueAugmentationConfig",
    "TissueRecipeConfig",
    "TrainConfig",
    "TrainerConfig",
    "UCF101Config",
    "UNetConfig",
    "VideoRecipeConfig",
]


@dataclass
class TrainConfig:
    """Everything that ``train.py`` takes."""

    backbone: BackboneConfig = MISSING
    block: BlockConfig = MISSING
    dataset: DatasetConfig = MISSING
    recipe: RecipeConfig = MISSING
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    seed: int = 0
    initial_weights: str | None = None
    resume: Any = False
    output_directory: str = "runs"


@dataclass
class EvaluateConfig:
    """Everything that ``evaluate.py`` takes; null: as the checkpoint was trained."""

    checkpoint: str = MISSING
    dataset: DatasetConfig | None = None
    segmentation: Any = field(default_factory=SegmentationChanges)
    accelerator: str = "auto"
    output: str | None = None
    overwrite: bool = False


@dataclass
class SegmentConfig:
    """Everything that ``scripts/segment.py`` takes; what follows ``accelerator`` is for EM.

    ``threshold`` null: the one that the checkpoint's run chose; ``block_size`` in voxels, a number
    or (z, y, x); ``segmentation``: what to change of the trained one; ``address``: of a dask
    scheduler, in place of ``workers`` local processes.
    """

    checkpoint: str = MISSING
    input: str = MISSING
    output: str = MISSING
    overwrite: bool = False
    accelerator: str = "auto"
    input_key: str | None = None
    missing_chunks: str = "refuse"
    voxel_size: list[float] | None = None
    threshold: float | None = None
    block_size: Any = 256
    context: int = 16
    levels: int = 4
    segmentation: Any = field(default_factory=SegmentationChanges)
    workers: int = 1
    address: str | None = None
    progress: bool = True


@dataclass
class SummaryConfig:
    """Everything that ``scripts/summary.py`` takes; ``input_size`` null: the paper's."""

    backbone: BackboneConfig = MISSING
    block: BlockConfig = MISSING
    input_size: Any = None
    batch_size: int = 1
    format: str = "text"
    table: bool = False
    into: str | None = None


@dataclass
class ViewConfig:
    """Everything that ``scripts/view.py`` takes; ``raw`` is for outputs of scripts/segment.py."""

    run: str = MISSING
    region: int = 0
    raw: str | None = None
    raw_key: str | None = None
    address: str = "127.0.0.1"
    port: int = 0
    report: str | None = None
    serve: bool = True
    worst: int = 5
