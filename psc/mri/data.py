"""From a folder of brain volumes to subjects in memory, in parts for training and testing.

Intensities are normalised to mean 0 and standard deviation 1 inside the brain, one subject at a
time, as Bui et al. do; what is around it gets the same shift and scale, so that it stays what is
darkest. Splits are by subject, never by slice or patch: neighbouring slices of one brain are nearly
the same, and on a split by them a network is tested on what it has seen.

IBSR has labels of two kinds: in the unfilled ones cerebrospinal fluid is that of the ventricles, in
the filled ones that around the brain as well. Where only the unfilled ones are at hand, the filled
ones can be approximated: unlabelled voxels inside the brain become fluid.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml

from psc.errors import ConfigError, DataError
from psc.files import locate
from psc.mri.brain import Brain, find_brain
from psc.mri.finding import GETTING_IBSR, SubjectFiles, find_own_subjects, find_subjects
from psc.mri.nifti import (
    LINEAR,
    NEAREST,
    SYNTHETIC_STAMP,
    NiftiVolume,
    VoxelSize,
    check_same_space,
    read_nifti,
    resampled,
    resampled_shape,
    size_factors,
)
from psc.mri.settings import IBSRConfig, OwnMRIConfig, SubjectsConfig
from psc.mri.synthetic import write_synthetic_brains
from psc.mri.tissues import BACKGROUND, CSF, IBSR, TissueCodes
from psc.training.records import kind_of
from psc.training.settings import PARTS

LabelKind = Literal["filled", "unfilled", "given"]
"""Which labels a subject gets: of one of IBSR's kinds, or those that it has, as they are."""

_Labels = npt.NDArray[np.uint8]
_KEYS = ("description", *PARTS)
_LEAST_DEVIATION = 1e-6  # relative to the mean; rounding alone makes less


@dataclass(frozen=True)
class SubjectSplit:
    """Names of subjects by part; no part is empty, and no subject stands twice."""

    parts: Mapping[str, tuple[str, ...]]  # to train, to choose the checkpoint by, to report
    description: str  # where the split comes from

    def __post_init__(self) -> None:
        where: dict[str, list[str]] = {}
        for name, part in self.parts.items():
            if not part:
                raise DataError(f"{self.description}: no subject in {name}; each part needs one")
            for subject in part:
                where.setdefault(subject, []).append(name)
        twice = [f"{name} ({', '.join(places)})" for name, places in where.items() if places[1:]]
        if twice:
            raise DataError(
                f"{self.description}: subjects that stand twice: {'; '.join(twice)}. A network"
                " tested on a brain that it was trained on shows nothing; leave each in one part"
            )

    def record(self) -> dict[str, Any]:
        """What result.json says about the split."""
        parts = {name: list(part) for name, part in self.parts.items()}
        return {"description": self.description, **parts}


def read_split(path: Path) -> SubjectSplit:
    """Read a split from a YAML file: description, train, validation and test, each once."""
    try:
        text = path.read_text(encoding="utf-8")
        content, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(
            f"{path} cannot be read as a split ({error}); give the path of a YAML file with"
            f" {', '.join(_KEYS)}, such as data/splits/ibsr.yaml"
        ) from error
    # YAML's dict keeps the last of two equal keys; its syntax tree has both.
    if not isinstance(content, dict) or not isinstance(tree, yaml.MappingNode):
        raise DataError(f"{path}: expected the keys {', '.join(_KEYS)}, found {content!r:.60}")
    keys = [key.value for key, _ in tree.value]
    if sorted(map(str, keys)) != sorted(_KEYS):
        raise DataError(
            f"{path}: has the keys {', '.join(map(str, keys))}; it needs {', '.join(_KEYS)}, each"
            " once, and no others"
        )
    description = content["description"]
    if not isinstance(description, str) or not description.strip():
        raise DataError(f"{path}: description is {description!r}; say in words where it is from")
    for key in PARTS:
        names = content[key]
        if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
            raise DataError(f"{path}: {key} is {names!r:.80}; give a list of subjects' names")
    try:
        parts = {part: tuple(content[part]) for part in PARTS}
        return SubjectSplit(parts, " ".join(description.split()))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def k_fold(
    subjects: Collection[str], *, folds: int, fold: int, validation: int, seed: int
) -> SubjectSplit:
    """One fold of a cross-validation over subjects; over all folds each is tested once.

    The subjects, sorted by name, are put into a random order, and that order is cut into
    ``folds`` parts whose sizes differ by one at most. Part ``fold`` (from 0) is tested; the
    ``validation`` subjects that follow it in the order, from whose end it goes on at its start,
    choose; all others train. ``seed`` decides the order, the same for all folds. What is impossible
    every fold refuses alike.
    """
    names = sorted(subjects)
    if not 2 <= folds <= len(names):
        raise ConfigError(
            f"dataset.folds={folds}: must be at least 2, and at most the number of subjects,"
            f" {len(names)}; give another, or name the parts: dataset.split=…"
        )
    room = len(names) + (-len(names) // folds) - 1  # one subject at least trains
    if not 1 <= validation <= room:
        raise ConfigError(
            f"dataset.validation_subjects={validation}: with {len(names)} subjects in {folds} folds"
            f" it must be 1 to {room}"
            if room >= 1
            else f"dataset.folds={folds} leaves too few of {len(names)} subjects to train and to"
            " choose on; choose more folds or add subjects"
        )
    parts = np.array_split(np.random.default_rng(seed).permutation(len(names)), folds)
    # Beginning behind the part that is tested, which so comes last.
    cycle = [names[i] for part in (*parts[fold + 1 :], *parts[: fold + 1]) for i in part]
    first_tested = len(names) - len(parts[fold])
    cuts = (slice(validation, first_tested), slice(validation), slice(first_tested, None))
    return SubjectSplit(
        {part: tuple(sorted(cycle[cut])) for part, cut in zip(PARTS, cuts, strict=True)},
        f"fold {fold} (from 0) of {folds} over {len(names)} subjects in the order of seed {seed},"
        f" {validation} for validation",
    )


def require_present(
    split: SubjectSplit, found: Collection[str], getting: str = GETTING_IBSR
) -> None:
    """Refuse to begin without all the subjects of a split; ``getting`` says where they are from."""
    missing = {
        name: absent
        for name, part in split.parts.items()
        if (absent := [subject for subject in part if subject not in found])
    }
    if missing:
        listed = "; ".join(f"{name}: {', '.join(absent)}" for name, absent in missing.items())
        raise DataError(
            f"{split.description}: subjects that are missing: {listed}. Add their files, or use a"
            f" split of those that are there ({', '.join(sorted(found)) or 'none'}). {getting}"
        )


@dataclass(frozen=True, eq=False)
class Subject:
    """One subject's volumes (D, H, W); axes run to its right, anterior and superior (RAS).

    Those that are ``native`` have the grid of the file; the others too, unless resampled.
    """

    name: str
    image: npt.NDArray[np.float32]  # mean 0 and standard deviation 1 inside the brain
    labels: _Labels | None  # uint8, values of ``psc.mri.tissues``
    brain: npt.NDArray[np.bool_]
    background: float  # the value around the brain in ``image``; pads what lies outside
    voxel_size: VoxelSize
    native: NiftiVolume
    native_brain: npt.NDArray[np.bool_]
    native_labels: _Labels | None
    label_kind: str  # which labels these are, and how they were filled; for records
    became_fluid: int  # how many unlabelled voxels of the brain
    files: tuple[Mapping[str, Any], ...]  # name, bytes and sha256 of each that was read
    synthetic: bool  # a phantom of ``psc.mri.synthetic``

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the image's voxels, however its file packs, turns or types them."""
        voxels = np.ascontiguousarray(self.native.data, dtype=np.float32)
        return hashlib.sha256(voxels.tobytes()).hexdigest()


def read_subject(
    files: SubjectFiles,
    *,
    codes: TissueCodes = IBSR,
    labels: LabelKind = "given",
    voxel_size: Sequence[float] | None = None,
    brain_above: float | None = None,
    labels_required: bool = True,
) -> Subject:
    """Read, check, and normalise one subject; to predict, ``labels_required`` may be False.

    Of labels "given" takes those that there are, "unfilled" those of that kind, both as they are;
    "filled" takes those of the filled kind, or else makes unlabelled brain voxels of the others
    fluid. ``voxel_size`` is in mm (right, anterior, superior), to resample to, linearly, labels and
    brain by the nearest voxel; what is ``native`` never is. The brain is what is brighter than
    ``brain_above``; None tells it from the volume's background.
    """
    source = _labels_file(files, labels, required=labels_required)
    native = read_nifti(files.image)
    found = find_brain(native, brain_above)
    brain, records = found.mask, [native.file]
    native_labels, kind, became_fluid = None, "none", 0
    if source is not None:
        volume = read_nifti(source)
        check_same_space(native, volume)
        records.append(volume.file)
        native_labels = codes.classes_of(volume.data, source)
        kind = f"{labels} ({source.name})"
        if labels == "filled" and files.filled is None:
            unlabelled = brain & (native_labels == BACKGROUND)
            native_labels = np.where(unlabelled, np.uint8(CSF), native_labels)
            became_fluid = int(np.count_nonzero(unlabelled))
            kind = f"filled from {source.name}; {became_fluid} unlabelled brain voxels became CSF"
    image, tissues, size = _without_background(native, found), native_labels, native.voxel_size
    if voxel_size is not None:
        size = (voxel_size[0], voxel_size[1], voxel_size[2])
        factors = size_factors(native.voxel_size, size)
        shape = resampled_shape(image.shape, factors)
        image = resampled(image, factors, shape, order=LINEAR)
        brain = resampled(brain, factors, shape, order=NEAREST)
        if tissues is not None:
            tissues = resampled(tissues, factors, shape, order=NEAREST)  # 0 is background
    normalised, background = _normalise(image, brain, files.image)
    return Subject(
        name=files.name,
        image=normalised,
        labels=tissues,
        brain=brain,
        background=background,
        voxel_size=size,
        native=native,
        native_brain=found.mask,
        native_labels=native_labels,
        label_kind=kind,
        became_fluid=became_fluid,
        files=tuple(records),
        synthetic=native.description.startswith(SYNTHETIC_STAMP),
    )


def _labels_file(files: SubjectFiles, labels: LabelKind, *, required: bool) -> Path | None:
    """Which file the labels come from, before any is read."""
    filled, unfilled = files.filled, files.unfilled
    if labels == "given" and filled and unfilled:
        raise DataError(
            f"{files.name} has labels of two kinds, {filled} and {unfilled}; choose by"
            " dataset.labels=filled or dataset.labels=unfilled"
        )
    if labels == "unfilled" and filled and not unfilled:
        raise DataError(
            f"{files.name}: dataset.labels=unfilled, but {filled} is of the filled kind and filling"
            " cannot be undone; add the unfilled file (segTRI_ana), or set dataset.labels=filled"
        )
    source = unfilled if labels == "unfilled" else filled or unfilled
    if source is None and required:
        raise DataError(
            f"{files.name}: no tissue labels lie beside {files.image}, which can be predicted but"
            " neither trained nor scored on; add its labels, or take the subject out of the split"
        )
    return source


def _without_background(native: NiftiVolume, brain: Brain) -> npt.NDArray[Any]:
    """Intensities with exactly zero around the brain, as stripping leaves it."""
    if brain.is_exact:
        return native.data
    return np.where(brain.mask, native.data - np.float64(brain.level), 0)


def _normalise(
    image: npt.NDArray[Any], brain: npt.NDArray[np.bool_], path: Path
) -> tuple[npt.NDArray[np.float32], float]:
    """The normalised volume, and what zero became."""
    inside = image[brain].astype(np.float64)
    if inside.size == 0:
        raise DataError(
            f"{path}: no brain voxel is left after resampling; give a smaller dataset.voxel_size"
        )
    mean, deviation = float(inside.mean()), float(inside.std())
    if deviation <= _LEAST_DEVIATION * abs(mean):
        raise DataError(
            f"{path}: all {inside.size} brain voxels have the same intensity ({mean:g}), so there"
            " is nothing to tell tissues by; expected a T1 volume (is this a mask?)"
        )
    return ((image - mean) / deviation).astype(np.float32), -mean / deviation


@dataclass(frozen=True, eq=False)
class Cohort:
    """Subjects to train on, to choose on, and to test on; ``split`` has their names."""

    parts: dict[str, tuple[Subject, ...]]
    split: SubjectSplit
    kind: str  # "real", "real sample", "synthetic" or "own"
    codes: TissueCodes

    @property
    def subjects(self) -> list[Subject]:
        """All of them."""
        return [subject for part in self.parts.values() for subject in part]

    @property
    def label_treatment(self) -> str:
        """What was done to the labels, in words."""
        filled = [subject.became_fluid for subject in self.subjects if subject.became_fluid]
        if not filled:
            return "labels as they are in their files"
        return (
            f"{sum(filled):,} unlabelled brain voxels of {len(filled)} of {len(self.subjects)}"
            " subjects became CSF (dataset.labels=filled)"
        )

    @property
    def unlearned(self) -> list[str]:
        """Tissues that no subject has that trains."""
        unseen = set(self.codes.tissues)
        for subject in self.parts["train"]:
            assert subject.labels is not None
            unseen -= {
                name for name in unseen if (subject.labels == self.codes.tissues[name]).any()
            }
        return sorted(unseen)

    def description(self) -> list[str]:
        """What was read, in lines: subjects by part; voxels; labels and classes."""
        parts = (f"{part} {len(n)} ({', '.join(n)})" for part, n in self.split.parts.items())

        def sizes(of: Iterable[VoxelSize]) -> str:
            distinct = dict.fromkeys("×".join(f"{mm:.3g}" for mm in size) for size in of)
            return ", ".join(list(distinct)[:3]) + (", …" if len(distinct) > 3 else "") + " mm"

        native = f"{sizes(s.native.voxel_size for s in self.subjects)} as in their files"
        resampled = any(s.voxel_size != s.native.voxel_size for s in self.subjects)
        empty = [s.name for s in self.subjects if s.labels is not None and not s.labels.any()]
        used = f"{sizes(s.voxel_size for s in self.subjects)}, resampled from " if resampled else ""
        return [
            f"{len(self.subjects)} subjects: {', '.join(parts)}; {self.split.description}",
            f"voxels of {used}{native}",
            f"{self.label_treatment}; classes: {self.codes}",
            *(
                f"no subject that trains has any {name}, so none is learned"
                for name in self.unlearned
            ),
            *([f"no voxel is labelled of {', '.join(empty)}"] if empty else []),
        ]

    def record(self) -> dict[str, Any]:
        """What result.json says about the data."""
        return {
            "kind": self.kind,
            "splits": self.split.record()
            | {part: [subject.name for subject in of] for part, of in self.parts.items()},
            "labels": {subject.name: subject.label_kind for subject in self.subjects},
            "label_treatment": self.label_treatment,
            "files": [dict(file) for subject in self.subjects for file in subject.files],
        }


def prepare_synthetic(config: IBSRConfig) -> None:
    """Write the data set's phantoms where they are not on disk yet."""
    if config.synthetic is not None:
        write_synthetic_brains(locate(config.folder), config.synthetic)


def read_cohort(config: SubjectsConfig) -> Cohort:
    """Read every subject of the split once, and say what was done to its labels."""
    if isinstance(config, OwnMRIConfig):
        found, getting = find_own_subjects(config), ""
        codes, synthetic, own = TissueCodes.of(config.values()), False, True
    else:
        assert isinstance(config, IBSRConfig)
        found, getting = find_subjects(locate(config.folder)), GETTING_IBSR
        codes, synthetic, own = IBSR, config.synthetic is not None, False
    split = _split(config, found)
    require_present(split, found, getting)
    parts = {
        part: tuple(read_configured(found[name], config, codes) for name in names)
        for part, names in split.parts.items()
    }
    first: dict[str, tuple[str, str]] = {}
    for part, subjects in parts.items():
        for subject in subjects:
            other, where = first.setdefault(subject.fingerprint, (subject.name, part))
            if where != part:
                raise DataError(
                    f"{subject.name} ({part}) and {other} ({where}) are one volume, voxel by voxel;"
                    " a network is not tested on what it has seen: leave it in one part"
                )
    return Cohort(parts, split, kind_of(config, synthetic=synthetic, own=own), codes)


def _split(config: SubjectsConfig, found: Mapping[str, SubjectFiles]) -> SubjectSplit:
    """A fold of those that have labels, the configuration's lists, or those of a file."""
    if config.folds is not None:
        return k_fold(
            [name for name, files in found.items() if files.filled or files.unfilled],
            folds=config.folds,
            fold=config.fold,
            validation=config.validation_subjects,
            seed=config.fold_seed,
        )
    if isinstance(config.split, dict):
        return _listed_split(config.split, found)
    return read_split(locate(str(config.split)))


def _listed_split(given: Mapping[str, Any], subjects: Collection[str]) -> SubjectSplit:
    """A split by its lists; who is in none of them trains, unless that is a list, too."""
    lists = {part: given.get(part, []) for part in PARTS}
    if given.keys() - set(PARTS) or not all(isinstance(names, list) for names in lists.values()):
        raise ConfigError(f"dataset.split={dict(given)}: must be lists of {', '.join(PARTS)}")
    if "train" not in given:
        elsewhere = {*lists["validation"], *lists["test"]}
        lists["train"] = [name for name in subjects if name not in elsewhere]
    parts = {part: tuple(map(str, lists[part])) for part in PARTS}
    return SubjectSplit(parts, "dataset.split")


def read_configured(
    files: SubjectFiles, config: SubjectsConfig, codes: TissueCodes = IBSR
) -> Subject:
    """A subject as a data set's configuration wants it; phantoms and IBSR are not mixed."""
    labels: Any = config.labels if isinstance(config, IBSRConfig) else "given"
    subject = read_subject(
        files,
        codes=codes,
        labels=labels,
        voxel_size=config.voxel_size,
        brain_above=config.brain_above,
    )
    if isinstance(config, IBSRConfig) and subject.synthetic != (config.synthetic is not None):
        raise DataError(
            f"{files.image} is {'a' if subject.synthetic else 'no'} phantom, but dataset="
            f"{config.name} is {'for recordings' if subject.synthetic else 'synthetic'}; correct "
            "dataset.folder"
        )
    return subject
