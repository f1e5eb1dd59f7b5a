"""A subject: its T1 volume, normalised, with tissue labels, on the grid that a network sees.

The brain is where the skull-stripped volume is not zero. Intensities are normalised to mean 0 and
standard deviation 1 inside it, one subject at a time, as Bui et al. do; the zeros around it get the
same shift and scale, so that they stay what is darkest.

IBSR has labels of two kinds: in the unfilled ones cerebrospinal fluid is that of the ventricles, in
the filled ones that around the brain as well. Where only the unfilled ones are at hand, the filled
ones are approximated: unlabelled voxels inside the brain become fluid.
"""

import logging
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml
from tqdm import tqdm

from psc.em.data import REAL, SAMPLE, SYNTHETIC, locate
from psc.errors import ConfigError, DataError
from psc.files import locked
from psc.mri.nifti import (
    LINEAR,
    NEAREST,
    SYNTHETIC_STAMP,
    NiftiVolume,
    check_same_space,
    read_nifti,
    resized_affine,
    to_voxel_size,
)
from psc.mri.settings import IBSRConfig
from psc.mri.synthetic import SyntheticBrains, write_synthetic_brains
from psc.mri.tissues import BACKGROUND, CLASSES, CSF

# ----------------------------------------
# Which files a subject has, under the names that IBSR is known by.


log = logging.getLogger(__name__)

GETTING_IBSR = (
    "IBSR is given out after registration at https://www.nitrc.org/projects/ibsr: fetch the"
    " skull-stripped NIfTI files of IBSR V2.0, then run make data-ibsr ARGS=ARCHIVE"
)
"""What to do where there is no data, for messages."""

RECOGNISED_NAMES = (
    "IBSR_01_ana_strip.nii.gz (image), IBSR_01_segTRI_fill_ana.nii.gz (filled labels) and"
    " IBSR_01_segTRI_ana.nii.gz (unfilled labels), as from NITRC, or IBSR_01.nii.gz and"
    " IBSR_01_seg.nii.gz (unfilled labels)"
)
"""The names that ``find_subjects`` knows, for messages."""

_NAME = re.compile(
    r"(?P<prefix>[a-z]+)_(?P<number>[0-9]{2,})(?P<role>_[a-z_]+)?\.nii(\.gz)?", re.ASCII | re.I
)
_IMAGE, _FILLED, _UNFILLED, _WITH_SKULL = "image", "filled labels", "unfilled labels", "with skull"
_ROLES = {
    "": _IMAGE,
    "_ana_strip": _IMAGE,
    "_segtri_fill_ana": _FILLED,
    "_segtri_ana": _UNFILLED,
    "_seg": _UNFILLED,
    "_ana": _WITH_SKULL,
}
"""What follows the subject's name in a file's, without case; all else is somebody else's file."""


@dataclass(frozen=True)
class SubjectFiles:
    """Files of one subject.

    Attributes:
        name: IBSR_01, …
        image: the skull-stripped T1 volume.
        filled: labels whose cerebrospinal fluid includes that around the brain (segTRI_fill_ana).
        unfilled: labels with the ventricles' fluid only (segTRI_ana, or _seg in course copies).
    """

    name: str
    image: Path
    filled: Path | None
    unfilled: Path | None


def find_subjects(folder: Path, *more: Path) -> dict[str, SubjectFiles]:
    """Find the subjects below a folder, or below several that complete each other.

    Recognised are, for ``PREFIX`` of letters and ``NN`` of two digits or more, without regard to
    case, as .nii and as .nii.gz:

    * NITRC's names: ``PREFIX_NN_ana_strip`` (image), ``PREFIX_NN_segTRI_fill_ana`` (filled
      labels) and ``PREFIX_NN_segTRI_ana`` (unfilled ones);
    * those of course copies: ``PREFIX_NN`` (image) and ``PREFIX_NN_seg`` (unfilled labels).

    Everything else is ignored, and so is what is hidden. Links to folders are followed. Labels
    without an image are left out, which the log says.

    Returns:
        Files by subject, sorted by name. The name is ``PREFIX_NN``, in capitals, with leading
        zeros as two digits need them (IBSR_001 is IBSR_01).

    Raises:
        DataError: a folder is missing, no folder holds a subject, only volumes with the skull are
            there, or two files would be the same of one subject.
    """
    subjects: dict[str, dict[str, Path]] = {}
    for place in (folder, *more):
        for path in _files_below(place):
            if recognised := _recognise(path.name):
                name, role = recognised
                other = subjects.setdefault(name, {}).setdefault(role, path)
                if other != path and role != _WITH_SKULL:
                    raise DataError(
                        f"{name} has two files of one kind ({role}): {other} and {path}; move away"
                        " the one that is not to be used"
                    )
    found = {
        name: SubjectFiles(name, files[_IMAGE], files.get(_FILLED), files.get(_UNFILLED))
        for name, files in sorted(subjects.items())
        if _IMAGE in files
    }
    if not found:
        raise _nothing_found(", ".join(map(str, (folder, *more))), subjects)
    for name in sorted(subjects.keys() - found.keys()):
        files = ", ".join(path.name for path in subjects[name].values())
        log.warning("%s is left out: it has %s, but no stripped volume", name, files)
    return found


def _recognise(file_name: str) -> tuple[str, str] | None:
    """Name and role, None for other files."""
    match = _NAME.fullmatch(file_name)
    role = _ROLES.get((match["role"] or "").lower()) if match else None
    if match is None or role is None:
        return None
    return f"{match['prefix'].upper()}_{int(match['number']):02d}", role


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All that is not hidden below a folder, in order; ``above`` guards against links in circles.

    A link that leads nowhere is a file here: reading it says that it is missing.
    """
    real = folder.resolve()
    if real in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder} cannot be searched for subjects ({error.strerror}); correct the path."
            f" Recognised are {RECOGNISED_NAMES}. {GETTING_IBSR}"
        ) from error
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files_below(path, (*above, real))
        else:
            yield path


def _nothing_found(where: str, subjects: dict[str, dict[str, Path]]) -> DataError:
    files = [(role, path) for roles in subjects.values() for role, path in sorted(roles.items())]
    with_skull = [path for role, path in files if role == _WITH_SKULL]
    if with_skull:
        return DataError(
            f"{where}: T1 volumes with the skull only ({with_skull[0].name}, …). The stripped ones"
            f" are needed, IBSR_XX_ana_strip.nii.gz. {GETTING_IBSR}"
        )
    if files:
        return DataError(
            f"{where}: labels only ({files[0][1].name}, …), no image. Recognised are"
            f" {RECOGNISED_NAMES}. {GETTING_IBSR}"
        )
    return DataError(f"{where} holds no subject. Recognised are {RECOGNISED_NAMES}. {GETTING_IBSR}")


# ----------------------------------------
# Which subjects train, which choose, which test (Section 4.2): by subject, never by slice.
#
# Neighbouring slices or patches of one brain are nearly the same: on a split by either of them a
# network is tested on what it has seen.


_PARTS = ("train", "validation", "test")
_KEYS = ("description", *_PARTS)


@dataclass(frozen=True)
class SubjectSplit:
    """Names of subjects in three parts.

    Attributes:
        train: subjects for gradient steps.
        validation: subjects for checkpoints.
        test: subjects for the reported numbers.
        description: where the split comes from, for records and messages.

    Raises:
        DataError: a part is empty, or a subject stands twice.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    description: str

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            if not part:
                raise DataError(f"{self.description}: no subject in {name}; each part needs one")
        if twice := _twice(name for part in self.parts.values() for name in part):
            where = {
                subject: ", ".join(
                    name for name in _PARTS for s in self.parts[name] if s == subject
                )
                for subject in twice
            }
            listed = "; ".join(f"{subject} ({parts})" for subject, parts in where.items())
            raise DataError(
                f"{self.description}: subjects that stand twice: {listed}. A network tested on a"
                " brain that it was trained on shows nothing; leave each in one part"
            )

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def record(self) -> dict[str, Any]:
        """What result.json says about the split."""
        parts = {name: list(part) for name, part in self.parts.items()}
        return {"description": self.description, **parts}


def read_split(path: Path) -> SubjectSplit:
    """Read a split from a YAML file: description, train, validation and test.

    Raises:
        DataError: it cannot be read; a key is unknown, missing or there twice; the description is
            no text or a part no list of names; what ``SubjectSplit`` refuses.
    """
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
    if not isinstance(content["description"], str) or not content["description"].strip():
        raise DataError(
            f"{path}: description is {content['description']!r}; say in words where the split"
            " comes from"
        )
    train, validation, test = (_names(path, key, content[key]) for key in _PARTS)
    description = " ".join(content["description"].split())
    try:
        return SubjectSplit(train, validation, test, description)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def k_fold(
    subjects: Collection[str], *, folds: int, fold: int, validation: int, seed: int
) -> SubjectSplit:
    """One fold of a cross-validation over subjects; over all folds each is tested once.

    The subjects, sorted by name, are put into a random order, and that order is cut into
    ``folds`` parts whose sizes differ by one at most. Part ``fold`` is tested; the ``validation``
    subjects that follow it in the order, from whose end it goes on at its start, choose; all others
    train.

    Args:
        subjects: names; their order does not matter.
        folds: how many parts, from 2 to the number of subjects.
        fold: which of them is tested, from 0.
        validation: how many subjects choose, at least 1.
        seed: of the order, at least 0; the same for all folds.

    Raises:
        ConfigError: values that are impossible together; every fold refuses alike.
    """
    names = sorted(subjects)
    if twice := _twice(names):
        raise ConfigError(f"subjects {', '.join(twice)} are given twice; give each once")
    if not 2 <= folds <= len(names):
        raise ConfigError(
            f"folds is {folds}, but {len(names)} subjects are there; choose 2 to {len(names)}"
            if len(names) >= 2
            else f"folds is {folds}, but a cross-validation needs subjects: {len(names)} are there"
        )
    if not 0 <= fold < folds:
        raise ConfigError(f"fold is {fold}, but folds is {folds}; choose 0 to {folds - 1}")
    most_tested = -(-len(names) // folds)
    room = len(names) - most_tested - 1  # one subject at least trains
    if not 1 <= validation <= room:
        raise ConfigError(
            f"validation is {validation}, but with {len(names)} subjects in {folds} folds it is 1"
            f" to {room}"
            if room >= 1
            else f"folds is {folds}: of {len(names)} subjects {most_tested} would be tested, which"
            " leaves too few to train and to choose on; choose more folds or add subjects"
        )
    if seed < 0:
        raise ConfigError(f"the folds' seed is {seed}; choose 0 or more")
    order = np.random.default_rng(seed).permutation(len(names))
    parts = np.array_split(order, folds)
    behind = sum(len(part) for part in parts[: fold + 1])
    # Beginning behind the part that is tested, which so comes last.
    cycle = [names[i] for i in np.roll(order, -behind)]
    first_tested = len(names) - len(parts[fold])
    return SubjectSplit(
        train=tuple(sorted(cycle[validation:first_tested])),
        validation=tuple(sorted(cycle[:validation])),
        test=tuple(sorted(cycle[first_tested:])),
        description=(
            f"fold {fold} (from 0) of {folds} over {len(names)} subjects in the order of seed"
            f" {seed}, {validation} for validation"
        ),
    )


def require_present(split: SubjectSplit, found: Collection[str]) -> None:
    """Refuse to begin without all the subjects of a split.

    Args:
        split: the split.
        found: names of the subjects at hand.

    Raises:
        DataError: naming those that are missing.
    """
    missing = {
        name: absent
        for name, part in split.parts.items()
        if (absent := [subject for subject in part if subject not in found])
    }
    if missing:
        listed = "; ".join(f"{name}: {', '.join(absent)}" for name, absent in missing.items())
        raise DataError(
            f"{split.description}: subjects that are missing: {listed}. Add their files, or use a"
            f" split of those that are there ({', '.join(sorted(found)) or 'none'}). {GETTING_IBSR}"
        )


def _names(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise DataError(
            f"{path}: {key} is {value!r:.80}; give a list of subjects' names, as [IBSR_01, IBSR_02]"
        )
    return tuple(value)


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


LabelKind = Literal["filled", "unfilled"]
FILLED: LabelKind = "filled"
UNFILLED: LabelKind = "unfilled"

VoxelSize = tuple[float, float, float]
Labels = npt.NDArray[np.uint8]

_MOST_BRAIN = 0.9
"""Share of voxels that are not zero above which a volume is hardly skull-stripped; IBSR's: 0.1."""

_LEAST_DEVIATION = 1e-6  # relative to the mean; rounding alone makes less
_SCALING_ERROR = 1e-3  # programs that store labels as floats scale them, and a 1 comes back 0.99998
_MOST_LISTED = 5


@dataclass(frozen=True, eq=False)
class Subject:
    """One subject's volumes; axes run to the subject's right, anterior and superior (RAS).

    Attributes:
        name: IBSR_01, …
        image: float32 (D, H, W); mean 0 and standard deviation 1 inside the brain.
        labels: uint8 (D, H, W), values of ``psc.mri.tissues``; None where there are none.
        brain: bool (D, H, W), where the stripped volume is not zero.
        background: what zero became in ``image``; pads what lies outside.
        voxel_size: mm along D, H and W.
        native: the volume as it is in its file, but for the order of its axes; ``image`` has its
            grid unless subjects are resampled.
        native_labels: uint8, on the grid of ``native``; None where there are none.
        label_kind: which labels these are, and how they were filled; for records.
        files: name, bytes and sha256 of every file read.
        synthetic: whether it is a phantom of ``psc.mri.synthetic``.
    """

    name: str
    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8] | None
    brain: npt.NDArray[np.bool_]
    background: float
    voxel_size: tuple[float, float, float]
    native: NiftiVolume
    native_labels: npt.NDArray[np.uint8] | None
    label_kind: str
    files: tuple[Mapping[str, Any], ...]
    synthetic: bool

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """float64 (4, 4), from indices of ``image`` to mm."""
        return resized_affine(self.native.affine, self.voxel_size)


def read_subject(
    files: SubjectFiles,
    *,
    labels: LabelKind,
    voxel_size: VoxelSize | None = None,
    labels_required: bool = True,
) -> Subject:
    """Read, check, and normalise one subject.

    Args:
        files: what the subject has.
        labels: "filled" takes the filled file as it is, or else the unfilled one with unlabelled
            brain voxels made fluid; "unfilled" takes the unfilled file as it is.
        voxel_size: mm (right, anterior, superior) to resample to, linearly, labels and brain by
            the nearest voxel; None leaves the file's grid. ``native`` and ``native_labels`` are
            never resampled.
        labels_required: False for prediction, where a subject may have no labels.

    Raises:
        DataError: a file cannot be read; the labels are missing, of the other kind, in another
            space, or hold other values than 0 to 3; the volume is zero everywhere, or the same
            everywhere in the brain.
        ConfigError: an impossible voxel size.
    """
    source = _labels_file(files, labels, required=labels_required)
    native = read_nifti(files.image)
    brain = _brain(native)
    records: list[Mapping[str, Any]] = [native.file]
    native_labels, kind = None, "none"
    if source is not None:
        volume = read_nifti(source)
        check_same_space(native, volume)
        records.append(volume.file)
        native_labels, kind = _tissues(volume), f"{labels} ({source.name})"
        if labels == FILLED and files.filled is None:
            native_labels, kind = _fill(native_labels, brain, source)
    grid = _on_grid(native, brain, native_labels, voxel_size)
    image, background = _normalise(grid.image, grid.brain, files.image)
    return Subject(
        name=files.name,
        image=image,
        labels=grid.labels,
        brain=grid.brain,
        background=background,
        voxel_size=grid.voxel_size,
        native=native,
        native_labels=native_labels,
        label_kind=kind,
        files=tuple(records),
        synthetic=native.description.startswith(SYNTHETIC_STAMP),
    )


def _labels_file(files: SubjectFiles, labels: LabelKind, *, required: bool) -> Path | None:
    """Which file the labels come from, before any is read."""
    if labels == UNFILLED and files.unfilled is None and files.filled is not None:
        raise DataError(
            f"{files.name}: dataset.labels=unfilled, but {files.filled} is of the filled kind and"
            " filling cannot be undone; add the unfilled file (segTRI_ana), or set"
            " dataset.labels=filled"
        )
    source = files.unfilled if labels == UNFILLED else files.filled or files.unfilled
    if source is None and required:
        raise DataError(
            f"{files.name}: no tissue labels lie beside {files.image}, which can be predicted but"
            " neither trained nor scored on; add its labels, or take the subject out of the split"
        )
    return source


def _brain(native: NiftiVolume) -> npt.NDArray[np.bool_]:
    brain = np.asarray(native.data != 0)
    share = float(brain.mean())
    if share == 0:
        raise DataError(
            f"{native.path}: every voxel is zero; expected a skull-stripped T1 volume, so download"
            " or convert it again"
        )
    if share > _MOST_BRAIN:
        log.warning(
            "%s: %.0f %% of its voxels are not zero and count as brain; expected a skull-stripped"
            " volume with zeros around the brain",
            native.path,
            100 * share,
        )
    return brain


def _tissues(volume: NiftiVolume) -> Labels:
    """Labels as uint8, refused if they hold anything but the classes."""
    data = volume.data
    rounded = np.rint(data) if data.dtype.kind == "f" else data
    for wrong, what in (
        (abs(data - rounded) > _SCALING_ERROR, "are no integers"),
        (
            (rounded < BACKGROUND) | (rounded >= CLASSES),
            f"lie outside {BACKGROUND} to {CLASSES - 1}",
        ),
    ):
        if wrong.any():
            values, counts = np.unique(data[wrong], return_counts=True)
            found = ", ".join(
                f"{value:g} ({count} voxels)"
                for value, count in zip(values[:_MOST_LISTED], counts, strict=False)
            )
            raise DataError(
                f"{volume.path}: labels {what}: {found}; expected 0 background, 1 CSF, 2 GM and"
                " 3 WM, so map them (IBSR: the segTRI files, not seg_ana with its structures)"
            )
    if not rounded.any():
        raise DataError(f"{volume.path}: no voxel is labelled; download or draw the labels again")
    return rounded.astype(np.uint8)


def _fill(labels: Labels, brain: npt.NDArray[np.bool_], source: Path) -> tuple[Labels, str]:
    """Unlabelled brain voxels made fluid, and the record of it."""
    unlabelled = brain & (labels == BACKGROUND)
    count = int(np.count_nonzero(unlabelled))
    kind = f"filled from {source.name}; {count} unlabelled brain voxels became CSF"
    return np.where(unlabelled, np.uint8(CSF), labels), kind


@dataclass(frozen=True, eq=False)
class _Grid:
    """What is on the grid that the network sees; intensities as in the file."""

    image: npt.NDArray[Any]
    brain: npt.NDArray[np.bool_]
    labels: Labels | None
    voxel_size: VoxelSize


def _on_grid(
    native: NiftiVolume,
    brain: npt.NDArray[np.bool_],
    labels: Labels | None,
    voxel_size: VoxelSize | None,
) -> _Grid:
    if voxel_size is None:
        return _Grid(native.data, brain, labels, native.voxel_size)
    affine = native.affine
    image, _ = to_voxel_size(native.data, affine, voxel_size, order=LINEAR)
    mask, _ = to_voxel_size(brain, affine, voxel_size, order=NEAREST)
    if labels is not None:
        labels, _ = to_voxel_size(labels, affine, voxel_size, order=NEAREST, fill=BACKGROUND)
    return _Grid(image, mask, labels, voxel_size)


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


# ----------------------------------------
# From a data set's configuration to subjects in memory, and what a record says about them.


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
    with locked(folder.with_name(f".{folder.name}.preparation")):
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


# ----------------------------------------
# Whether a copy of IBSR is complete, and every volume of it in order.


EXPECTED = tuple(f"IBSR_{number:02d}" for number in range(1, 19))
"""Names of IBSR's 18 subjects."""


@dataclass(frozen=True)
class Verified:
    """A subject whose files were read and found in order.

    Attributes:
        name: IBSR_01, …
        paths: image and labels, where they were found.
        shape: voxels to the right, anterior and superior.
        voxel_size: mm along the same axes.
        labels: kinds that are there.
        brain_voxels: how many are not zero.
    """

    name: str
    paths: tuple[Path, ...]
    shape: tuple[int, ...]
    voxel_size: tuple[float, float, float]
    labels: tuple[LabelKind, ...]
    brain_voxels: int


def incomplete(found: Mapping[str, SubjectFiles]) -> dict[str, str]:
    """What is missing of the 18 subjects, in words, by name: an image, or any labels."""
    missing = {}
    for name in EXPECTED:
        if name not in found:
            missing[name] = "no image"
        elif not _label_kinds(found[name]):
            missing[name] = "no labels"
    return missing


def verify(subjects: Sequence[SubjectFiles], *, progress: bool | None = None) -> list[Verified]:
    """Read every image and all labels of every subject.

    Args:
        subjects: with or without labels.
        progress: show a bar; None: if standard error is a terminal.

    Raises:
        DataError: a file is damaged, labels do not fit their image or have wrong values, or a
            subject is a phantom; the message has what is wrong with every subject.
    """
    disable = None if progress is None else not progress
    verified, problems = [], []
    for files in tqdm(subjects, "verifying", unit="subject", disable=disable, file=sys.stderr):
        try:
            verified.append(_verify(files))
        except DataError as error:
            problems.append(f"\n  {error}")
    if problems:
        raise DataError(
            f"{len(problems)} of {len(subjects)} subjects cannot be used:{''.join(problems)}"
        )
    return verified


def table(subjects: Sequence[Verified]) -> str:
    """A heading, and a line for every subject."""
    rows = [("subject", "shape", "voxel size [mm]", "labels", "brain voxels")]
    rows += [
        (
            subject.name,
            "×".join(map(str, subject.shape)),
            "×".join(f"{size:.4g}" for size in subject.voxel_size),
            ", ".join(subject.labels) or "none",
            f"{subject.brain_voxels:,}",
        )
        for subject in subjects
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _label_kinds(files: SubjectFiles) -> tuple[LabelKind, ...]:
    by_kind = {FILLED: files.filled, UNFILLED: files.unfilled}
    return tuple(kind for kind, path in by_kind.items() if path is not None)


def _verify(files: SubjectFiles) -> Verified:
    kinds = _label_kinds(files)
    for kind in kinds or (UNFILLED,):
        subject = read_subject(files, labels=kind, labels_required=bool(kinds))
    if subject.synthetic:
        raise DataError(f"{files.image} is a phantom that psc wrote, and not IBSR; remove it")
    paths = (files.image, files.filled, files.unfilled)
    return Verified(
        name=files.name,
        paths=tuple(path for path in paths if path is not None),
        shape=subject.native.data.shape,
        voxel_size=subject.native.voxel_size,
        labels=kinds,
        brain_voxels=int(subject.brain.sum()),
    )
