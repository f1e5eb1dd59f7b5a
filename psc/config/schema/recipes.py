"""Schema of recipes: how long, how fast and on what a network is trained; one per task."""

from dataclasses import dataclass, field

from omegaconf import MISSING


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
    """Learning rate over iterations; see ``psc.tasks.optimization``."""

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
    """Elastic deformation, rotation and misalignment, all off: ``psc.datasets.em_augmentation``."""

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
    """Probabilities of bad sections, all off: ``psc.datasets.em_augmentation``."""

    missing: float = 0.0
    low_contrast: float = 0.0
    contrast: list[float] = field(default_factory=lambda: [0.1, 0.5])
    """What is left of it."""
    blur: float = 0.0
    blur_sd: float = 2.0
    """Largest standard deviation, in voxels."""


@dataclass
class AugmentationConfig:
    """Augmentation of volumes: ``psc.datasets.transforms``; all but the first four are off."""

    reflections: bool = True
    axis_swaps: str = "all"
    contrast: list[float] = field(default_factory=lambda: [0.8, 1.2])
    brightness: list[float] = field(default_factory=lambda: [-0.2, 0.2])
    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    defects: SectionDefectsConfig = field(default_factory=SectionDefectsConfig)


@dataclass
class AffinityRecipeConfig(RecipeConfig):
    """Affinities from electron microscopy: ``psc.tasks.affinity``.

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
    """Action recognition: ``psc.tasks.classification``; clips: ``psc.datasets.clips``."""

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
    """Augmentation of MRI patches, all off: ``psc.datasets.mri.augmentation``."""

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
    """Tissues in brain MRI: ``psc.tasks.tissue``; windows: ``psc.sliding_window``."""

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
