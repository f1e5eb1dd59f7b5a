"""A subject: its T1 volume, normalised, with tissue labels, on the grid that a network sees.

The brain is where the skull-stripped volume is not zero. Intensities are normalised to mean 0 and
standard deviation 1 inside it, one subject at a time, as Bui et al. do; the zeros around it get the
same shift and scale, so that they stay what is darkest.

IBSR has labels of two kinds: in the unfilled ones cerebrospinal fluid is that of the ventricles, in
the filled ones that around the brain as well. Where only the unfilled ones are at hand, the filled
ones are approximated: unlabelled voxels inside the brain become fluid.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from psc.datasets.mri.files import SubjectFiles
from psc.datasets.mri.labels import BACKGROUND, CLASSES, CSF
from psc.datasets.mri.nifti import SYNTHETIC_STAMP, NiftiVolume, check_same_space, read_nifti
from psc.datasets.mri.resampling import LINEAR, NEAREST, resized_affine, to_voxel_size
from psc.errors import DataError

__all__ = ["FILLED", "UNFILLED", "Subject", "read_subject"]

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

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Subject:
    """One subject's volumes; axes run to the subject's right, anterior and superior (RAS).

    Attributes:
        name: IBSR_01, …
        image: float32 (D, H, W); mean 0 and standard deviation 1 inside the brain.
        labels: uint8 (D, H, W), values of ``psc.datasets.mri.labels``; None where there are none.
        brain: bool (D, H, W), where the stripped volume is not zero.
        background: what zero became in ``image``; pads what lies outside.
        voxel_size: mm along D, H and W.
        native: the volume as it is in its file, but for the order of its axes; ``image`` has its
            grid unless subjects are resampled.
        native_labels: uint8, on the grid of ``native``; None where there are none.
        label_kind: which labels these are, and how they were filled; for records.
        files: name, bytes and sha256 of every file read.
        synthetic: whether it is a phantom of ``psc.datasets.mri.synthetic``.
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
