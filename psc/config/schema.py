"""The typed schema of every configuration: what may be set, its type and its default.

Hydra merges the YAML files of ``configs/`` into these dataclasses, so that an unknown key or a
wrong type is refused before anything runs. Ranges and combinations are checked in
``psc.config.checks``. Sizes are in voxels, intensities in [0, 1] after scaling.
"""

from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from omegaconf import MISSING

# ----------------------------------------
# Schema of networks: backbones and blocks.


@dataclass
class BackboneConfig:
    """A network without its blocks; one subclass per file in ``psc/backbones``."""

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


@dataclass
class BlockConfig:
    """How segments of consecutive convolutions are realised: ``psc.make_segment``."""

    name: str = MISSING
    kind: str = MISSING
    m: int | None = None
    n: int | None = None
    maximum_width: int | None = None
    width_divisor: int | None = None
    """What Eq. 5 is divided by; null: m, as published."""
    merge: str = "concatenate"
    """What becomes of the m streams: concatenate, as published, or sum (Eq. 3)."""


# ----------------------------------------
# Schema of data sets: one class per reader in ``psc.volumes``.


@dataclass
class SyntheticVolumeConfig:
    """A volume that ``psc.em.synthetic`` writes where ``raw`` says, if it is not there."""

    shape: list[int] = MISSING
    seed: int = 0


@dataclass
class SlabConfig:
    """One volume, or the slab z[0] ≤ z < z[1] of it.

    ``labels`` null: in the same file as ``raw``. Keys null: recognised layouts (data/README.md).
    """

    raw: str = MISSING
    labels: str | None = None
    raw_key: str | None = None
    labels_key: str | None = None
    z: list[int] | None = None
    synthetic: SyntheticVolumeConfig | None = None


@dataclass
class DatasetConfig:
    """A data set; one subclass per reader in ``psc/datasets``."""

    name: str = MISSING


@dataclass
class FibsemConfig(DatasetConfig):
    """Electron-microscopy volumes with neuron labels, for affinities."""

    train: list[SlabConfig] = MISSING
    validation: list[SlabConfig] = MISSING
    test: list[SlabConfig] = MISSING
    zero_label: str = "ignore"
    boundary_thickness: int = 0
    intensity_range: list[float] | None = None
    context_across_border: bool = True
    voxel_size: list[float] | None = None
    sample: bool = False
    """A real but small sample: its records go into the tables of reduced protocols only."""


@dataclass
class SyntheticVideosConfig:
    """Films that ``psc.video.synthetic`` writes where ``dataset.videos`` says."""

    groups: int = 25
    clips: int = 1
    seed: int = 0


@dataclass
class UCF101Config(DatasetConfig):
    """Videos of actions in UCF101's folders and lists: ``psc.video.data``.

    ``prepared`` is the store that scripts/data.py ucf101 writes; with ``prepare`` true, training
    writes it itself (for data sets of minutes, not hours).
    """

    videos: str = MISSING
    lists: str = MISSING
    prepared: str = MISSING
    classes: int = MISSING
    split: int = 1
    validation_groups: int = 2
    short_side: int = 80
    prepare: bool = False
    allow_missing: bool = False
    shared_classes_only: bool = False
    """Only classes with both training and test videos: a part of the data set has others too."""
    synthetic: SyntheticVideosConfig | None = None
    sample: bool = False
    """A real but small sample: its records go into the tables of reduced protocols only."""


@dataclass
class SyntheticBrainsConfig:
    """Phantoms that ``psc.mri.synthetic`` writes where ``dataset.folder`` says."""

    subjects: int = 18
    seed: int = 0


@dataclass
class IBSRConfig(DatasetConfig):
    """T1 volumes with tissue labels, one folder of NIfTI files: ``psc.mri``."""

    folder: str = MISSING
    split: str = MISSING
    """File that says which subjects train, validate and test."""
    folds: int | None = None
    """Cross-validation instead of the file: cut the labelled subjects into this many test parts."""
    fold: int = 0
    validation_subjects: int = 2
    """Of a cross-validation; the file has its own."""
    fold_seed: int = 0
    labels: str = "filled"
    voxel_size: list[float] | None = None
    """Resample to so many mm (right, anterior, superior); null: as the files are."""
    synthetic: SyntheticBrainsConfig | None = None
    sample: bool = False
    """A real but small sample: its records go into the tables of reduced protocols only."""


# ----------------------------------------
# Schema of recipes: how long, how fast and on what a network is trained; one per task.


@dataclass
class OptimizerConfig:
    """Adam; the learning rate of biases is ``bias_learning_rate_factor`` times the weights'."""

    learning_rate: float = MISSING
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    bias_learning_rate_factor: float = 1.0


@dataclass
class ScheduleConfig:
    """Learning rate over iterations; see ``psc.training.task``."""

    name: str = "constant"
    gamma: float = 0.0
    power: float = 0.0
    step_size: int = 1


@dataclass
class RecipeConfig:
    """What every training has; one subclass per task."""

    name: str = MISSING
    iterations: int = MISSING
    max_minutes: float | None = None
    """Stop there even if ``iterations`` are not reached; null: never."""
    validate_every: int = MISSING
    batch_size: int = MISSING
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass
class DeformationConfig:
    """Elastic deformation, rotation and misalignment, all off: ``psc.em.augmentation``."""

    spacing: list[int] = field(default_factory=lambda: [40, 40, 40])
    """Voxels (z, y, x) between control points of the elastic deformation."""
    jitter: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Largest displacement of a control point, in voxels; at most 0.4 of the spacing."""
    rotation: float = 0.0
    """Largest angle in the plane of y and x, in degrees."""
    offset: int = 10
    """Largest step along y and x of sections that ``slip`` (one) or ``shift`` (all from one on)."""
    slip: float = 0.0
    """Probability of each section."""
    shift: float = 0.0


@dataclass
class SectionDefectsConfig:
    """Probabilities of bad sections, all off: ``psc.em.augmentation``."""

    missing: float = 0.0
    low_contrast: float = 0.0
    contrast: list[float] = field(default_factory=lambda: [0.1, 0.5])
    """What is left of it."""
    blur: float = 0.0
    blur_sd: float = 2.0
    """Largest standard deviation, in voxels."""


@dataclass
class AugmentationConfig:
    """Augmentation of volumes: ``psc.em.augmentation``; all but the first four are off."""

    reflections: bool = True
    axis_swaps: str = "all"
    contrast: list[float] = field(default_factory=lambda: [0.8, 1.2])
    brightness: list[float] = field(default_factory=lambda: [-0.2, 0.2])
    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    defects: SectionDefectsConfig = field(default_factory=SectionDefectsConfig)


@dataclass
class AffinityRecipeConfig(RecipeConfig):
    """Affinities from electron microscopy: ``psc.em.task``.

    ``output_size`` is the number of affinities that a patch teaches, along each axis: the input is
    the smallest that the network turns into at least as many, whatever the block. ``input_size``,
    where it is set, is taken as it is, or refused.
    """

    output_size: int = MISSING
    input_size: int | None = None
    loss: str = "balanced_squared_error"
    malis_from: int | None = None
    """Iteration at which MALIS takes the place of ``loss`` (stage 2); null: never."""
    malis_normalization: str = "labelled"
    validation_patches: int = 32
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass
class VideoRecipeConfig(RecipeConfig):
    """Action recognition: ``psc.video.task``; clips: ``psc.video.clips``."""

    frames: int = 64
    temporal_stride: int = 1
    size: int = 64
    random_crop: bool = True
    flip: bool = True
    shuffle_frames: bool = False
    """A control: with its frames in random order a clip shows appearance, no motion."""
    label_smoothing: float = 0.0
    mixup: float = 0.0
    """Both parameters of the Beta distribution that two clips are blended by; 0: none."""
    validation_clips: int = 1
    """Clips of each validation video."""
    test_clips: int = 20
    """Clips of each test video, whose softmax is averaged."""
    evaluation_batch_size: int = 32


@dataclass
class TissueAugmentationConfig:
    """Augmentation of MRI patches, all off: ``psc.mri.patches``."""

    reflections: list[bool] = field(default_factory=lambda: [False, False, False])
    """Along which axes (right, anterior, superior); the first keeps a brain a brain."""
    rotation: float = 0.0
    """Largest angle about each axis, in degrees."""
    scaling: list[float] = field(default_factory=lambda: [1.0, 1.0])
    contrast: list[float] = field(default_factory=lambda: [1.0, 1.0])
    brightness: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """In standard deviations of the brain's intensity, as ``noise`` is."""
    noise: float = 0.0


@dataclass
class TissueRecipeConfig(RecipeConfig):
    """Tissues in brain MRI: ``psc.mri.task``; windows: ``psc.mri.testing``."""

    patch_size: int = 64
    foreground_share: float = 1.0
    """Share of patches that are centred in the brain; the others anywhere in the volume."""
    loss: str = "cross_entropy"
    validation_patches: int = 32
    overlap: float = 0.5
    """Of the windows of ``patch_size`` that a whole volume is predicted in."""
    blending: str = "gaussian"
    evaluation_batch_size: int = 4
    augmentation: TissueAugmentationConfig = field(default_factory=TissueAugmentationConfig)


# ----------------------------------------
# Schema of everything around a training: segmentation, machine, loggers, budget.


@dataclass
class SegmentationConfig:
    """Affinities to neurons: ``psc.em`` (fragments, agglomeration by waterz)."""

    fragments: str = "seeded"
    boundary_threshold: float = 0.5
    seed_smoothing: float = 1.0
    minimum_seed_distance: int = 1
    low: float = 0.0001
    high: float = 0.9999
    scoring: str = "hist_quant_50"
    thresholds: list[float] = field(
        default_factory=lambda: [round(0.05 * i, 2) for i in range(1, 20)]
    )
    tile_input: int | None = None
    """Largest input of a tile in voxels; null: the training patch's."""
    batch_size: int = 1


SegmentationChanges = make_dataclass(
    "SegmentationChanges",
    [(f.name, f.type | None, None) for f in fields(SegmentationConfig)],  # type: ignore[operator]
)
"""The keys of SegmentationConfig, all null: what evaluate.py is to change of a trained one."""


@dataclass
class TrainerConfig:
    """Where and how to run; passed on to Lightning's Trainer. "auto" decides by the device.

    ``devices`` is 1 by default: each more is another patch per iteration, another experiment.
    """

    accelerator: str = "auto"
    devices: Any = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    compile: Any = "auto"
    channels_last: bool = True
    deterministic: bool = False
    workers: Any = "auto"
    progress_bar: bool = True


@dataclass
class LoggerConfig:
    """metrics.csv is always written; Weights & Biases on request."""

    wandb: bool = False
    project: str = "psc"
    mode: str = "auto"
    group: str | None = None
    """What runs are grouped by, such as a table; null: the data set."""


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
