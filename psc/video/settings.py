"""What action recognition may be told (``psc.training.settings`` says how)."""

from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import MISSING

from psc.errors import ConfigError
from psc.training.settings import (
    PARTS,
    DatasetConfig,
    RecipeConfig,
    at_least,
    require,
    share,
    shares,
)


@dataclass
class SyntheticVideosConfig:
    """Films that ``psc.video.synthetic`` writes where ``dataset.videos`` says."""

    groups: int = 25
    """Per class; each has an appearance of its own, the same in all classes."""
    clips: int = 1
    """Per group and class."""
    seed: int = 0  # of appearances and noise

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

    videos: str = MISSING  # folder of <class>/v_<class>_g<group>_c<clip>.avi
    lists: str = MISSING  # folder of the official split files
    prepared: str = MISSING  # store that scripts/data.py ucf101, or prepare, writes
    classes: int = MISSING  # how many; the lists must have as many
    split: int = 1  # which official one
    validation_groups: int = 2  # of the training groups, held out
    short_side: int = 80  # pixels, of stored frames
    prepare: bool = False  # write the store before training, if it is not there
    allow_missing: bool = False  # go on without clips that are listed and not there
    shared_classes_only: bool = False
    """Only classes with both training and test videos: a part of the data set has others too."""
    synthetic: SyntheticVideosConfig | None = None
    """Made where videos says, if nothing is there; null: never."""
    sample: bool = False
    """A real but small sample: its records go into the tables of reduced protocols only."""

    def __post_init__(self) -> None:
        require(self, "split", (1, 2, 3))
        at_least(self, 2, "classes")
        at_least(self, 1, "validation_groups", "short_side")


@dataclass
class OwnVideoConfig(DatasetConfig):
    """Clips in folders of classes, or listed by a CSV, wherever they lie: ``psc.video.listing``."""

    folder: str | None = None
    """One folder for each class below it; or where the paths of csv begin, null: in its folder."""
    csv: Any = None
    """With the columns path and label, perhaps group and part; or Kinetics's. Or a list of such,
    or {train: a.csv, test: b.csv}."""
    classes: list[str] | None = None
    """In the network's order; null: all that are found, sorted."""
    shares: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])
    """Of each class, to train, to choose the checkpoint, to test; if no part is given."""
    split_seed: int = 0
    """Of the random split."""
    allow_missing: bool = False
    """Go on without clips that a CSV lists and that are not there."""
    prepared: str | None = None
    """Store of the decoded clips, brought up to date when it is read; null: in data/own_video."""
    short_side: int = 80
    """Pixels that the shorter side of a frame is resized to."""

    def __post_init__(self) -> None:
        if self.folder is None and self.csv is None:
            raise ConfigError(
                "folder=null: give dataset.folder=…, which holds a folder for each class, or"
                " dataset.csv=…"
            )
        tables = self.csv.values() if isinstance(self.csv, dict) else self.csv
        tables = [tables] if isinstance(tables, str) else tables or []
        if not all(isinstance(table, str) for table in tables) or (
            isinstance(self.csv, dict) and not self.csv.keys() <= {*PARTS}
        ):
            raise ConfigError(
                f"csv={self.csv}: must be a file, [files], or {{train: file, test: file}}"
            )
        at_least(self, 0, "split_seed")
        at_least(self, 1, "short_side")
        shares(self, "shares", zero=True)
        if self.classes is None:
            from psc.video.listing import list_clips  # where files are read, here alone

            found = list_clips(self.folder, self.csv, allow_missing=self.allow_missing)
            self.classes = sorted({clip.label for clip in found.clips})
        if len({name.casefold() for name in self.classes}) < max(2, len(self.classes)):
            raise ConfigError(f"classes={self.classes}: must be two at least, each once")

    def outputs(self) -> tuple[str, ...]:
        """The classes."""
        return tuple(self.classes or ())

    def fitted(self, trained: DatasetConfig) -> DatasetConfig:
        """With the trained classes, of which clips may have a part, and frames of their size."""
        if isinstance(trained, OwnVideoConfig) and {*self.outputs()} <= {*trained.outputs()}:
            return replace(self, classes=trained.classes, short_side=trained.short_side)
        return self


@dataclass
class VideoRecipeConfig(RecipeConfig):
    """Action recognition: ``psc.video.task``; clips: ``psc.video.clips``."""

    frames: int = 64  # of a clip
    temporal_stride: int = 1  # every so manyth frame
    size: int = 64  # pixels of a clip, height and width
    random_crop: bool = True  # where clips are cut in training; false: in the middle
    flip: bool = True  # half of the training clips, left to right
    shuffle_frames: bool = False
    """A control: with its frames in random order a clip shows appearance, no motion."""
    label_smoothing: float = 0.0  # share of the target that goes to all classes
    mixup: float = 0.0
    """Both parameters of the Beta distribution that two clips are blended by; 0: none."""
    validation_clips: int = 1
    """Clips of each validation video."""
    test_clips: int = 20
    """Clips of each test video, whose softmax is averaged."""
    evaluation_batch_size: int = 32  # clips that are predicted at once

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "frames", "temporal_stride", "size")
        at_least(self, 1, "validation_clips", "test_clips", "evaluation_batch_size")
        share(self, "label_smoothing", whole=False)
        at_least(self, 0, "mixup")

    @property
    def clip_options(self) -> dict[str, Any]:
        """How clips are cut, by ``psc.video.clips``' names."""
        return {
            "frames": self.frames,
            "stride": self.temporal_stride,
            "size": self.size,
            "shuffle_frames": self.shuffle_frames,
        }

    def sample_shape(self, network: object) -> tuple[int, ...]:
        """(1, 3, T, H, W) of a clip; every network takes it."""
        return (1, 3, self.frames, self.size, self.size)
