"""What action recognition may be told (``psc.training.settings`` says how)."""

from dataclasses import dataclass

from omegaconf import MISSING

from psc.training.settings import DatasetConfig, RecipeConfig, at_least, require, share


@dataclass
class SyntheticVideosConfig:
    """Films that ``psc.video.synthetic`` writes where ``dataset.videos`` says."""

    groups: int = 25
    """Per class; each has an appearance of its own, the same in all classes."""
    clips: int = 1
    """Per group and class."""
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 4, "groups")  # for three splits
        at_least(self, 1, "clips")
        at_least(self, 0, "seed")


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

    def __post_init__(self) -> None:
        require(self, "split", (1, 2, 3))
        at_least(self, 2, "classes")
        at_least(self, 1, "validation_groups", "short_side")


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

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "frames", "temporal_stride", "size")
        at_least(self, 1, "validation_clips", "test_clips", "evaluation_batch_size")
        share(self, "label_smoothing", whole=False)
        at_least(self, 0, "mixup")

    def sample_shape(self, network: object) -> tuple[int, ...]:
        """(1, 3, T, H, W) of a clip; every network takes it."""
        return (1, 3, self.frames, self.size, self.size)
