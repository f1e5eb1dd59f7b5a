"""The tree of every configuration: networks and blocks, and what each program takes.

Hydra merges the YAML files of ``configs/`` into these dataclasses and into those of the rooms'
``settings`` modules, so that an unknown key or a wrong type is refused before anything runs. Each
refuses what it can tell is impossible; what spans two of them is in ``psc.config.checks``.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from psc.em.settings import SegmentationChanges, SegmentationConfig
from psc.errors import ConfigError
from psc.training.settings import (
    DatasetConfig,
    LoggerConfig,
    RecipeConfig,
    TrainerConfig,
    at_least,
    require,
)


@dataclass
class BackboneConfig:
    """A network without its blocks; one subclass per file of ``psc/networks``."""

    name: str = MISSING


@dataclass
class UNetConfig(BackboneConfig):
    """``psc.networks.UNet``: Section 4.3; defaults as published."""

    name: str = "unet"
    in_channels: int = 1
    out_channels: int = 3
    base_width: int = 24
    growth: int = 3
    depth: int = 3
    padding: str = "valid"

    def __post_init__(self) -> None:
        at_least(self, 1, "in_channels", "out_channels", "base_width", "growth", "depth")
        require(self, "padding", ("valid", "same"))


@dataclass
class ResNetConfig(BackboneConfig):
    """``psc.networks.ResNet``: Section 4.1; defaults as published."""

    name: str = "resnet34"
    in_channels: int = 3
    classes: int = 101
    layers: int = 34
    base_width: int = 64
    stem: str = "conv3d"
    shortcut: str = "projection"
    dropout: float = 0.0
    weights: str | None = None
    """File of weights to start from: torchvision's r3d_18 or r2plus1d_18, or a run's checkpoint."""

    def __post_init__(self) -> None:
        require(self, "stem", ("conv3d", "factorised"))
        require(self, "shortcut", ("projection", "identity"))


@dataclass
class DenseNetConfig(BackboneConfig):
    """``psc.networks.DenseNet``: Section 4.2; defaults: the paper's reproduction."""

    name: str = "densenet"
    in_channels: int = 1
    classes: int = 4
    initial_channels: int = 32
    growth: int = 16
    layers_per_block: int = 4
    dense_blocks: int = 4
    bottleneck: int = 0
    compression: float = 1.0
    upsampling: str = "interpolation"
    dropout: float = 0.2
    layers_per_segment: int | None = None
    """Dense layers that one segment stands for; null: 2 for blocks with n ≥ 2, else 1."""

    def __post_init__(self) -> None:
        require(self, "upsampling", ("interpolation", "transposed"))


@dataclass
class BlockConfig:
    """How segments of consecutive convolutions are realised: ``psc.make_unit``."""

    name: str = MISSING
    kind: str = MISSING
    m: int | None = None
    n: int | None = None
    maximum_width: int | None = None
    width_divisor: int | None = None
    """What Eq. 5 is divided by; null: m, as published."""
    merge: str = "concatenate"
    """What becomes of the m streams: concatenate, as published, or sum (Eq. 3)."""

    def __post_init__(self) -> None:
        require(self, "kind", ("conv3d", "psc"))
        require(self, "merge", ("concatenate", "sum"))
        if self.kind == "conv3d":
            if self.m is not None or self.n is not None:
                raise ConfigError(
                    f"m={self.m}, n={self.n}: plain 3D convolutions have neither; use block=psc "
                    "block.m=… block.n=…"
                )
            if self.merge != "concatenate":
                raise ConfigError(
                    f"merge={self.merge}: plain 3D convolutions have no streams to merge; use "
                    "block=psc block.m=… block.n=…"
                )
            return
        if self.m not in (1, 2, 3):
            raise ConfigError(f"m={self.m}: allowed are 1, 2 and 3 (streams, one per axis)")
        if self.n is None or self.n < 1:
            raise ConfigError(f"n={self.n}: must be at least 1 (2D convolutions per stream)")
        for key, null in (("maximum_width", "no cap"), ("width_divisor", "m")):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise ConfigError(
                    f"{key}={getattr(self, key)}: must be at least 1, or null for {null}"
                )


@dataclass
class BudgetConfig:
    """What the user asked for; the recipe that it stands for is ``recipe.name``."""

    name: str = "auto"


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

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed={self.seed}: must lie in [0, 2³²)")
        if not isinstance(self.resume, bool | str):
            raise ConfigError(
                f"resume={self.resume!r}: allowed are true, false, or a checkpoint's path"
            )


@dataclass
class EvaluateConfig:
    """Everything that ``evaluate.py`` takes; null: as the checkpoint was trained."""

    checkpoint: str = MISSING
    dataset: DatasetConfig | None = None
    segmentation: Any = field(default_factory=SegmentationChanges)
    accelerator: str = "auto"
    precision: str | None = None
    output: str | None = None
    overwrite: bool = False


@dataclass
class SegmentConfig:
    """Everything that ``scripts/segment.py`` takes; what follows ``brain_above`` is for EM.

    ``threshold`` null: the one that the checkpoint's run chose; ``block_size`` in voxels, a number
    or (z, y, x); ``segmentation``: what to change of the trained one; ``address``: of a dask
    scheduler, in place of ``workers`` local processes.
    """

    checkpoint: str = MISSING
    """A path, one with * in it, or [paths]: several networks of tissues are an ensemble."""
    input: str = MISSING
    output: str = MISSING
    overwrite: bool = False
    accelerator: str = "auto"
    precision: str | None = None
    brain_above: float | None = None
    """Tissues: brighter voxels are brain; null: as in training, see ``psc.mri.brain``."""
    input_key: str | None = None
    missing_chunks: str = "refuse"
    intensity_range: list[float] | None = None
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
class AccountConfig:
    """Everything that ``scripts/account.py`` takes; ``input_size`` null: the paper's."""

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
