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

    name: str = MISSING  # which one; chosen by backbone=…


@dataclass
class UNetConfig(BackboneConfig):
    """``psc.networks.UNet``: Section 4.3; defaults as published."""

    name: str = "unet"  # which one; chosen by backbone=…
    in_channels: int = 1
    out_channels: int | None = None
    """Of the result; null: one for each of recipe.offsets, 3 as published."""
    base_width: int = 24
    growth: int = 3
    depth: int = 3
    padding: str = "valid"

    def __post_init__(self) -> None:
        outputs = () if self.out_channels is None else ("out_channels",)
        at_least(self, 1, "in_channels", *outputs, "base_width", "growth", "depth")
        require(self, "padding", ("valid", "same"))


@dataclass
class ResNetConfig(BackboneConfig):
    """``psc.networks.ResNet``: Section 4.1; defaults as published."""

    name: str = "resnet34"  # which one; chosen by backbone=…
    in_channels: int = 3
    classes: int | None = None
    """Of the result; null: those of the data set, 101 as published where there is none."""
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

    name: str = "densenet"  # which one; chosen by backbone=…
    in_channels: int = 1
    classes: int | None = None
    """Of the result; null: those of the data set, 4 as published where there is none."""
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

    name: str = MISSING  # what tables and folders call it; chosen by block=…
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

    name: str = "auto"  # auto: quick without a GPU, else paper


@dataclass
class TrainConfig:
    """Everything that ``train.py`` takes."""

    backbone: BackboneConfig = MISSING  # the network
    block: BlockConfig = MISSING  # what stands for its 3D convolutions
    dataset: DatasetConfig = MISSING  # what is read
    recipe: RecipeConfig = MISSING  # loss, optimiser, length
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    """From affinities to neurons."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)  # device, precision, processes
    logger: LoggerConfig = field(default_factory=LoggerConfig)  # Weights & Biases
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """How much: which of a backbone's recipes."""
    seed: int = 0  # of the initial weights, the patches and the augmentation
    initial_weights: str | None = None
    resume: Any = False
    output_directory: str = "runs"  # where the run's folder is made

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
    """File of a run, of scripts/convert.py, or of weights that come with psc."""
    dataset: DatasetConfig | None = None  # other data than it was trained on
    segmentation: Any = field(default_factory=SegmentationChanges)  # keys to change
    accelerator: str = "auto"  # auto, cpu or gpu
    precision: str | None = None
    output: str | None = None
    overwrite: bool = False  # replace an evaluation that is there


@dataclass
class SegmentConfig:
    """Everything that ``scripts/segment.py`` takes; what follows ``brain_above`` is for EM.

    ``threshold`` null: the one that the checkpoint's run chose; ``block_size`` in voxels, a number
    or (z, y, x); ``segmentation``: what to change of the trained one; ``address``: of a dask
    scheduler, in place of ``workers`` local processes.
    """

    checkpoint: str | None = None
    """A path, one with * in it, or [paths]: several networks of tissues are an ensemble."""
    input: str = MISSING
    output: str = MISSING
    weights: str | None = None
    """In its place: of a network that comes with psc, such as ``fib25_unet_p2sc2``."""
    overwrite: bool = False  # replace an output that is there
    accelerator: str = "auto"  # auto, cpu or gpu
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
    segmentation: Any = field(default_factory=SegmentationChanges)  # keys to change
    workers: int = 1
    address: str | None = None  # of a dask scheduler, in place of workers
    progress: bool = True  # show bars

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.weights is None):
            raise ConfigError(
                "give checkpoint=… (runs/<run>/checkpoints/best.ckpt) or weights=… (of a network "
                "that comes with psc, such as fib25_unet_p2sc2), one of them"
            )


@dataclass
class ClassifyConfig:
    """Everything that ``scripts/classify.py`` takes."""

    checkpoint: str = MISSING
    """A path, one with * in it, or [paths]: an ensemble."""
    input: str = MISSING  # a clip, a folder of clips, or a CSV with a column path
    output: str = "predictions.csv"  # the CSV to write
    overwrite: bool = False  # replace it
    top: int = 5  # classes of each clip, the most probable first
    accelerator: str = "auto"  # what computes
    precision: str | None = None
    """32-true, bf16-mixed or auto; null: as the network was trained, where this machine can."""
    progress: bool = True  # show a bar


@dataclass
class AccountConfig:
    """Everything that ``scripts/account.py`` takes; ``input_size`` null: the paper's."""

    backbone: BackboneConfig = MISSING  # the network
    block: BlockConfig = MISSING  # what stands for its 3D convolutions
    input_size: Any = None
    batch_size: int = 1  # samples of one pass
    format: str = "text"
    table: bool = False
    into: str | None = None


@dataclass
class ViewConfig:
    """Everything that ``scripts/view.py`` takes; ``raw`` is for outputs of scripts/segment.py."""

    run: str = MISSING
    region: int = 0
    raw: str | None = None
    raw_key: str | None = None  # dataset within raw; null: a usual name, or the only one
    address: str = "127.0.0.1"
    port: int = 0  # of the address; 0: any that is free
    report: str | None = None
    serve: bool = True  # false: write the page, start no neuroglancer
    worst: int = 5
