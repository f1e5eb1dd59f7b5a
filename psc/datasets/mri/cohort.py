"""From a data set's configuration to subjects in memory, and what a record says about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psc.config.schema import IBSRConfig
from psc.datasets.mri.files import SubjectFiles, find_subjects
from psc.datasets.mri.subject_split import SubjectSplit, k_fold, read_split, require_present
from psc.datasets.mri.subjects import Subject, read_subject
from psc.datasets.mri.synthetic import SyntheticBrains, write_synthetic_brains
from psc.datasets.splits import REAL, SAMPLE, SYNTHETIC, locate
from psc.errors import DataError
from psc.locks import wait_for_lock


@dataclass(frozen=True, eq=False)
class Cohort:
    """Subjects to train on, to choose on, and to test on.

    Attributes:
        train: subjects for gradient steps.
        validation: subjects for checkpoints.
        test: subjects for the reported numbers.
        split: their names.
        kind: "real", "real sample" or "synthetic".
    """

    train: tuple[Subject, ...]
    validation: tuple[Subject, ...]
    test: tuple[Subject, ...]
    split: SubjectSplit
    kind: str

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """All of them."""
        return (*self.train, *self.validation, *self.test)

    def record(self) -> dict[str, Any]:
        """What result.json says about the data."""
        return {
            "kind": self.kind,
            "splits": self.split.record(),
            "labels": {subject.name: subject.label_kind for subject in self.subjects},
            "files": [dict(file) for subject in self.subjects for file in subject.files],
        }


def prepare_synthetic(config: IBSRConfig) -> None:
    """Write the data set's phantoms where they are not on disk yet.

    One run at a time: those of a sweep that start together wait for the first.
    """
    if config.synthetic is None:
        return
    folder = locate(config.folder)
    options = SyntheticBrains(subjects=config.synthetic.subjects, seed=config.synthetic.seed)
    with wait_for_lock(folder.with_name(f".{folder.name}.preparation")):
        write_synthetic_brains(folder, options)


def read_cohort(config: IBSRConfig) -> Cohort:
    """Read every subject of the split once.

    Raises:
        DataError: for files that are missing, damaged or without labels.
        ConfigError: for a cross-validation that so few subjects do not allow.
    """
    found = find_subjects(locate(config.folder))
    split = _split(config, found)
    require_present(split, found)

    def read(names: Sequence[str]) -> tuple[Subject, ...]:
        return tuple(_read(found[name], config) for name in names)

    train, validation, test = read(split.train), read(split.validation), read(split.test)
    synthetic = any(subject.synthetic for subject in (*train, *validation, *test))
    kind = SYNTHETIC if synthetic else SAMPLE if config.sample else REAL
    return Cohort(train, validation, test, split, kind)


def _split(config: IBSRConfig, found: dict[str, SubjectFiles]) -> SubjectSplit:
    if config.folds is None:
        return read_split(locate(config.split))
    labelled = [name for name, files in found.items() if files.filled or files.unfilled]
    return k_fold(
        labelled,
        folds=config.folds,
        fold=config.fold,
        validation=config.validation_subjects,
        seed=config.fold_seed,
    )


def _read(files: SubjectFiles, config: IBSRConfig) -> Subject:
    labels: Literal["filled", "unfilled"] = "filled" if config.labels == "filled" else "unfilled"
    voxel = config.voxel_size
    subject = read_subject(
        files,
        labels=labels,
        voxel_size=(voxel[0], voxel[1], voxel[2]) if voxel is not None else None,
    )
    if subject.synthetic != (config.synthetic is not None):
        raise DataError(
            f"{files.image} is {'a' if subject.synthetic else 'no'} phantom, but dataset="
            f"{config.name} is {'for recordings' if subject.synthetic else 'synthetic'}; correct "
            "dataset.folder"
        )
    return subject
