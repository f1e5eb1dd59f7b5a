"""Schema of data sets: one class per reader in ``psc.datasets``."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class SyntheticVolumeConfig:
    """A volume that ``psc.datasets.synthetic`` writes where ``raw`` says, if it is not there."""

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
    """Films that ``psc.datasets.synthetic_video`` writes where ``dataset.videos`` says."""

    groups: int = 25
    clips: int = 2
    seed: int = 0


@dataclass
class UCF101Config(DatasetConfig):
    """Videos of actions in UCF101's folders and lists: ``psc.datasets.ucf101``.

    ``prepared`` is the store that scripts/prepare_ucf101.py writes; with ``prepare`` true, training
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
    """Phantoms that ``psc.datasets.mri.synthetic`` writes where ``dataset.folder`` says."""

    subjects: int = 18
    seed: int = 0


@dataclass
class IBSRConfig(DatasetConfig):
    """T1 volumes with tissue labels, one folder of NIfTI files: ``psc.datasets.mri``."""

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
