"""NIfTI volumes in memory and back into their own space, without loss.

The array that the rest of the library sees always runs to the subject's right, anterior and
superior (RAS); what it takes to write another array into the space of the file stays with it: the
header's own bytes, extensions included, the stored shape and the stored order of the axes.

Formats: NIfTI-1 (https://nifti.nimh.nih.gov/nifti-1, nifti1.h) and NIfTI-2, in one file, packed
or not. nibabel interprets headers and orientations.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.datasets.mri.nifti_bytes import nifti_version, read_bytes, write_bytes
from psc.datasets.mri.nifti_header import StoredForm, read_form, with_dtype
from psc.datasets.mri.orientation import from_ras, ras_affine, to_ras
from psc.datasets.volumes import FileRecord
from psc.errors import DataError

__all__ = [
    "SYNTHETIC_STAMP",
    "NiftiVolume",
    "check_same_space",
    "read_nifti",
    "write_nifti",
]

SYNTHETIC_STAMP = "psc synthetic"
"""How the header's description of a phantom begins."""

SPACE_TOLERANCE = 1e-3
"""Distance in mm by which two grids may differ at their corners; headers store float32."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class NiftiVolume:
    """A volume, its axes in RAS order.

    Attributes:
        path: the file.
        data: (D, H, W), axis 0 to the right, 1 anterior, 2 superior. The file's dtype (native byte
            order) if it has no scaling, else scaled values as float64.
        affine: float64 (4, 4), from indices of ``data`` to mm.
        voxel_size: mm along D, H and W.
        description: the header's ``descrip``.
        file: name, bytes and sha256 of the file as it is stored.
        form: what writing into the same space needs.
    """

    path: Path
    data: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    voxel_size: tuple[float, float, float]
    description: str
    file: FileRecord
    form: StoredForm


def read_nifti(path: Path) -> NiftiVolume:
    """Read one three-dimensional volume, its checksum verified and its axes brought to RAS.

    Trailing axes of one are dropped; slope and intercept are applied. Oblique axes stay oblique:
    each goes where it points mostly (closest canonical orientation), nothing is interpolated.

    Raises:
        DataError: the file is missing, truncated or damaged, not NIfTI or one half of a pair; the
            volume is not three-dimensional, holds complex or colour values, NaN or infinity; its
            affine is singular or not in mm.
    """
    content, record = read_bytes(path)
    version = nifti_version(content, path)
    form = read_form(content, version, path)
    if not form.affine_is_stated:
        log.warning(
            "%s: neither qform nor sform is set, so left and right are a guess; set one of them if"
            " the file comes from elsewhere",
            path,
        )
    stored = np.frombuffer(content, form.dtype, count=form.voxels, offset=len(form.prefix))
    grid = stored.reshape(form.shape[:3], order="F")
    # In C order, in which everything after reads: files are stored the other way round.
    native = form.dtype.newbyteorder("=")
    data = np.array(to_ras(grid, form.orientation), dtype=native, order="C")
    if form.is_scaled:
        # Finite values may leave float64's range; the check below then says so.
        with np.errstate(over="ignore", invalid="ignore"):
            data = data.astype(np.float64) * form.slope + form.intercept
    _check_finite(data, path)
    affine = ras_affine(form.affine, form.orientation, form.shape[:3])
    x, y, z = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return NiftiVolume(path, data, affine, (x, y, z), form.description, record, form)


def write_nifti(
    path: Path,
    data: npt.NDArray[Any],
    *,
    like: NiftiVolume,
    dtype: npt.DTypeLike | None = None,
) -> None:
    """Write an array into the space of another file, atomically.

    Shape with its trailing axes of one, order of axes, affine, units, codes, description and
    extensions are those of ``like``'s file, byte by byte.

    Args:
        path: ends with .nii or .nii.gz (packed then); an existing file is replaced.
        data: (D, H, W) on the grid of ``like.data``.
        like: the volume whose space it is.
        dtype: None for the file's own dtype and scaling, so that what was read is written back
            exactly; values between two steps are rounded. (Exact for integers while they, and
            intercept over slope, are below 2^50; scaled floats come back within their rounding.)
            A dtype for values without scaling, as np.uint8 for labels; the display range in the
            header is reset.

    Raises:
        DataError: ``data`` has another shape, is not finite, does not fit into the dtype, or has
            fractions where an integer dtype was asked for; the name ends otherwise; the disk
            refuses or is full.
    """
    if data.shape != like.data.shape:
        raise DataError(
            f"{path}: shape {data.shape} cannot be written into the space of {like.path}, which is"
            f" {like.data.shape} in RAS order; bring it onto that grid first"
        )
    _check_finite(data, path)
    form = like.form if dtype is None else with_dtype(like.form, np.dtype(dtype), path)
    stored = _unscaled(data, form, path, may_round=dtype is None)
    grid = from_ras(stored, form.orientation)
    write_bytes(path, form.prefix + grid.tobytes(order="F"))


def check_same_space(image: NiftiVolume, labels: NiftiVolume) -> None:
    """Refuse two volumes whose voxels are not at the same places.

    Raises:
        DataError: naming both files, and shapes or affines, whichever differs first.
    """
    if image.data.shape != labels.data.shape:
        raise DataError(
            f"{image.path} has shape {image.data.shape}, but {labels.path} has"
            f" {labels.data.shape} (in RAS order); use labels drawn on this image, or resample one"
            " of them"
        )
    last = np.array(image.data.shape) - 1
    corners = np.array([(*(last * side), 1) for side in np.ndindex(2, 2, 2)])
    distance = np.linalg.norm(corners @ (image.affine - labels.affine).T, axis=1).max()
    if not distance <= SPACE_TOLERANCE:
        raise DataError(
            f"the affines of {image.path} and {labels.path} differ: corners lie {distance:.4g} mm"
            f" apart ({SPACE_TOLERANCE:g} mm allowed), {_rows(image.affine)} against"
            f" {_rows(labels.affine)}; copy the right affine into the other header if the voxels do"
            " belong together, or resample one of them"
        )


def _unscaled(
    data: npt.NDArray[Any], form: StoredForm, path: Path, *, may_round: bool
) -> npt.NDArray[Any]:
    """The numbers that the file stores for ``data``."""
    values = (data.astype(np.float64) - form.intercept) / form.slope if form.is_scaled else data
    if form.dtype.kind in "iu" and values.dtype.kind == "f":
        rounded = np.rint(values)
        if not may_round and (fractions := int(np.count_nonzero(rounded != values))):
            raise DataError(
                f"{path}: {fractions} values are no integers, but {form.dtype.name} was asked for;"
                " round them first, or write floats"
            )
        values = rounded
    _check_range(values, form, path)
    return values.astype(form.dtype)


def _check_range(values: npt.NDArray[Any], form: StoredForm, path: Path) -> None:
    if form.dtype.kind == "f":
        least, most = -float(np.finfo(form.dtype).max), float(np.finfo(form.dtype).max)
    else:
        least, most = np.iinfo(form.dtype).min, np.iinfo(form.dtype).max
    # As Python numbers: compared as floats, 2^63 would pass for the largest int64.
    found = [value.item() for value in (values.min(), values.max())]
    exact = [int(value) if form.dtype.kind in "iu" else value for value in found]
    if exact[0] < least or exact[1] > most:
        raise DataError(
            f"{path}: values from {found[0]:g} to {found[1]:g} do not fit into {form.dtype.name}"
            f" ({least:g} to {most:g}) with slope {form.slope:g} and intercept {form.intercept:g};"
            " choose a wider dtype"
        )


def _check_finite(data: npt.NDArray[Any], path: Path) -> None:
    if data.dtype.kind != "f":
        return
    bad = ~np.isfinite(data)
    if bad.any():
        first = tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
        raise DataError(
            f"{path}: {int(bad.sum())} voxels are NaN or infinite, the first at {first} (RAS"
            " order); repair the volume first"
        )


def _rows(affine: npt.NDArray[np.float64]) -> str:
    return str([[round(float(value), 4) for value in row] for row in affine[:3]])
