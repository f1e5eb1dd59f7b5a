"""What tissue segmentation may be told (``psc.training.settings`` says how)."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from psc.errors import ConfigError
from psc.mri.augmentation import TissueAugmentation
from psc.mri.tissues import LARGEST_VALUE, MOST_TISSUES, TISSUES
from psc.training.settings import (
    DatasetConfig,
    RecipeConfig,
    at_least,
    between,
    require,
    share,
    sizes,
)

SUBJECT = "{subject}"
"""In a pattern of paths: what differs between subjects."""

DATASET_JSON = "dataset.json"
"""In a raw data set of nnU-Net: what its labels mean."""

TISSUE_LOSSES = ("cross_entropy", "dice", "dice_cross_entropy")


@dataclass
class SyntheticBrainsConfig:
    """Phantoms that ``psc.mri.synthetic`` writes where ``dataset.folder`` says."""

    subjects: int = 18  # how many
    seed: int = 0
    """Subject n of a seed is the same, however many there are."""

    def __post_init__(self) -> None:
        at_least(self, 0, "seed")
        between(self, 1, 99, "subjects")


@dataclass
class SubjectsConfig(DatasetConfig):
    """Volumes of subjects, with labels of tissues; what IBSR and a user's own have in common."""

    split: Any = MISSING  # who trains, validates and tests
    folds: int | None = None
    """Cross-validation instead of a split: cut the labelled subjects into this many test parts."""
    fold: int = 0  # number of the test part, from 0
    validation_subjects: int = 1
    """Of a cross-validation, to choose the checkpoint by."""
    fold_seed: int = 0
    """Of the order of the subjects, which are cut in that order."""
    voxel_size: list[float] | None = None
    """Resample to so many mm (right, anterior, superior); null: as the files are."""
    brain_above: float | None = None
    """Brighter voxels are brain; null: those that differ from the background."""

    def __post_init__(self) -> None:
        sizes(self, "voxel_size", "mm")
        if self.folds is not None:
            at_least(self, 2, "folds")
            at_least(self, 1, "validation_subjects")
            at_least(self, 0, "fold_seed")
            if not 0 <= self.fold < self.folds:
                raise ConfigError(f"fold={self.fold}: must lie in [0, {self.folds}), the folds")

    def fitted(self, trained: DatasetConfig) -> DatasetConfig:
        """On the grid, and with the brain, that the network learned.

        Refused: of the same data another fold, whose test subjects have trained the network.
        """
        if not isinstance(trained, SubjectsConfig):
            return self
        if self.voxel_size is not None and trained.voxel_size not in (None, self.voxel_size):
            raise ConfigError(
                f"dataset.voxel_size={self.voxel_size}: the network was trained at"
                f" {trained.voxel_size}; leave it out"
            )
        brain_above = trained.brain_above if self.brain_above is None else self.brain_above
        fitted = replace(
            self, brain_above=brain_above, voxel_size=self.voxel_size or trained.voxel_size
        )
        if not self._is_of(trained):
            return fitted
        before, asked = trained._division(), self._division()
        if before != asked and (self.folds, trained.folds) != (None, None):
            keys = " ".join(f"dataset.{key}={value}" for key, value in before.items())
            raise ConfigError(
                f"dataset={self.name}: the network was trained with {keys}; give the same, or it is"
                " tested on subjects that trained it"
            )
        return fitted

    def _is_of(self, trained: "SubjectsConfig") -> bool:
        """Whether these are the subjects that a network was trained, chosen and tested on."""
        return trained.name == self.name

    def _division(self) -> dict[str, Any]:
        """What decides who trains and who is tested; of a file its name, it may have moved."""
        if self.folds is None:
            return {"split": Path(self.split).name if isinstance(self.split, str) else self.split}
        keys = ("folds", "fold", "fold_seed", "validation_subjects")
        return {key: getattr(self, key) for key in keys}


@dataclass
class IBSRConfig(SubjectsConfig):
    """T1 volumes with tissue labels, one folder of NIfTI files: ``psc.mri``."""

    folder: str = MISSING  # of the subjects' folders or files
    split: str = MISSING
    """File that says which subjects train, validate and test."""
    validation_subjects: int = 2
    """Of a cross-validation; the file has its own."""
    labels: str = "given"
    """given: as they are in their files; filled, unfilled: IBSR's kinds, see ``psc.mri.data``."""
    synthetic: SyntheticBrainsConfig | None = None
    """Made where folder says, if nothing is there; null: never."""
    sample: bool = False
    """A real but small sample: its records go into the tables of reduced protocols only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "labels", ("given", "filled", "unfilled"))

    def outputs(self) -> tuple[str, ...]:
        """Background and the tissues."""
        return ("background", *TISSUES)


@dataclass
class OwnMRIConfig(SubjectsConfig):
    """Volumes of one channel with labels of any tissues, wherever they lie: ``psc.mri.finding``."""

    folder: str | None = None
    """Data set in the layout of BIDS, or a raw one of nnU-Net; else where patterns begin."""
    images: str | None = None
    """Path with {subject} in it, and * for what may differ beside; null: as the layout says."""
    labels: str | None = None
    """The same of the label files; they stay as they are."""
    label_values: Any = None
    """{tissue: its value in label files, or a list of values, of which the first is written};
    null: as nnU-Net's dataset.json says. What stands under background is no tissue, by default
    0."""
    subjects: list[str] | None = None
    """Those to use; null: all that are found."""
    split: Any = None
    """{validation: [names], test: [names]}, all others train; or a YAML file like data/splits/;
    null: 5 folds."""

    def __post_init__(self) -> None:
        if self.folder is None and (self.images is None or self.labels is None):
            raise ConfigError(
                "folder=null: give dataset.folder=… (of BIDS or nnU-Net), or dataset.images=… and "
                f"dataset.labels=…, paths with {SUBJECT} in them"
            )
        for key in ("images", "labels"):
            if (pattern := getattr(self, key)) is not None and SUBJECT not in pattern:
                raise ConfigError(f"{key}={pattern}: must have {SUBJECT} in it, for each subject's")
        if self.label_values is None:
            self.label_values = _values_of_nnunet(self.folder)
        self.values()  # refused if wrong
        if self.split is None and self.folds is None:
            self.folds = 5
        if self.split is not None and (self.folds is not None or self.fold != 0):
            raise ConfigError("split, folds and fold: give either a split or folds of all subjects")
        if not (self.split is None or isinstance(self.split, str | dict)):
            raise ConfigError(f"split={self.split}: must be {{validation: [], test: []}} or a file")
        super().__post_init__()

    def _is_of(self, trained: SubjectsConfig) -> bool:
        """Of others' files, or with a split of its own, only what they hold tells."""
        keys = ("folder", "images", "labels", "subjects")
        return (
            isinstance(trained, OwnMRIConfig)
            and self.split is None
            and all(getattr(self, key) == getattr(trained, key) for key in keys)
        )

    def values(self) -> dict[str, tuple[int, ...]]:
        """``label_values`` with a list for every tissue."""
        if not isinstance(self.label_values, dict):
            raise ConfigError(f"label_values={self.label_values}: must be {{tissue: value, …}}")
        found = {}
        for name, given in self.label_values.items():
            listed = tuple(given) if isinstance(given, list) else (given,)
            if not re.fullmatch(r"(?!mean$)(?!.*_sd$)[A-Za-z][A-Za-z0-9_-]*", str(name)):
                raise ConfigError(f"label_values: {name!r} is no name (letters, digits, _ and -)")
            if not listed or not all(
                type(value) is int and 0 <= value <= LARGEST_VALUE for value in listed
            ):
                raise ConfigError(
                    f"label_values.{name}={given}: must be 0 to {LARGEST_VALUE}, or several"
                )
            found[name] = listed
        every = [0] if "background" not in found else []
        every += [value for listed in found.values() for value in listed]
        if twice := {value for value in every if every.count(value) > 1}:
            raise ConfigError(f"label_values: {min(twice)} stands twice (0 is background's)")
        tissues = len(found.keys() - {"background"})
        if not 1 <= tissues <= MOST_TISSUES:
            raise ConfigError(f"label_values: {tissues} tissues; must be 1 to {MOST_TISSUES}")
        return found

    def outputs(self) -> tuple[str, ...]:
        """Background and the tissues, in the order of their names."""
        return ("background", *sorted(self.values().keys() - {"background"}))


def _values_of_nnunet(folder: str | None) -> dict[str, Any]:
    """The labels of a raw data set of nnU-Net."""
    path = Path(os.path.expandvars(folder or "")).expanduser() / DATASET_JSON
    if folder is None or not path.is_file():
        raise ConfigError(
            "label_values=null: name the tissues by their values in the label files, as "
            "'dataset.label_values={csf: 10, gm: 150, wm: 250}'"
        )
    try:
        labels: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["labels"]
        if all(isinstance(name, str) for name in labels.values()):  # as the Decathlon has them
            labels = {name: int(value) for value, name in labels.items()}
        if "ignore" in labels:
            raise ConfigError(f"{path}: voxels to ignore are not known here; label them, or not")
        return {re.sub(r"[^A-Za-z0-9_-]", "_", name): value for name, value in labels.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read as nnU-Net's ({error!r})") from error


@dataclass
class TissueRecipeConfig(RecipeConfig):
    """Tissues in brain MRI: ``psc.mri.task``; windows: ``psc.mri.testing``."""

    patch_size: int = 64  # voxels along each axis
    foreground_share: float = 1.0
    """Share of patches that are centred in the brain; the others anywhere in the volume."""
    loss: str = "cross_entropy"  # dice_cross_entropy: the sum of both
    validation_patches: int = 32  # at most so many, fixed ones
    overlap: float = 0.5
    """Of the windows of ``patch_size`` that a whole volume is predicted in."""
    blending: str = "gaussian"  # weights of overlapping windows: all alike, or less at the border
    evaluation_batch_size: int = 4  # windows that are predicted at once
    augmentation: TissueAugmentation = field(
        default_factory=lambda: TissueAugmentation(reflections=(False, False, False))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "loss", TISSUE_LOSSES)
        require(self, "blending", ("constant", "gaussian"))
        at_least(self, 1, "patch_size", "validation_patches", "evaluation_batch_size")
        share(self, "foreground_share")
        share(self, "overlap", whole=False)

    def sample_shape(self, network: Any) -> tuple[int, ...]:
        """(1, 1, D, H, W) of a training patch."""
        return (1, 1, *(network.fitting("recipe.patch_size", self.patch_size),) * 3)
