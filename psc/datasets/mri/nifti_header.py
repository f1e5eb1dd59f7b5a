"""What a NIfTI header says of the voxels that follow it, checked before they are touched."""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.datasets.mri.orientation import orientation_of
from psc.errors import DataError

__all__ = ["StoredForm", "read_form", "with_dtype"]

_SPATIAL_AXES = 3
_UNIT_MASK, _UNITS = 0x07, {0: "unknown", 1: "metres", 2: "millimetres", 3: "micrometres"}
_MILLIMETRES = (0, 2)  # unknown means millimetres everywhere in practice
_LEAST_VOLUME = 1e-4  # of the parallelepiped that the axes' directions span; 1 if perpendicular


@dataclass(frozen=True, eq=False)
class StoredForm:
    """How a file stores its volume.

    Attributes:
        version: 1 or 2, of NIfTI.
        prefix: every byte before the first voxel: header and extensions.
        shape: stored shape, trailing axes of one included.
        dtype: stored dtype, in the file's byte order.
        slope: what stored values are multiplied by.
        intercept: what is added then.
        affine: float64 (4, 4), from stored indices to mm.
        affine_is_stated: False where the header has none and nibabel's default stands in.
        orientation: (3, 2), nibabel's description of the stored axes.
        description: the header's ``descrip``.
    """

    version: int
    prefix: bytes
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    affine: npt.NDArray[np.float64]
    affine_is_stated: bool
    orientation: npt.NDArray[np.float64]
    description: str

    @property
    def voxels(self) -> int:
        """Number of stored values."""
        return prod(self.shape)

    @property
    def is_scaled(self) -> bool:
        """Whether values differ from what is stored."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def read_form(content: bytes, version: int, path: Path) -> StoredForm:
    """Interpret and check a header.

    Args:
        content: the unpacked file.
        version: 1 or 2, of NIfTI.
        path: the file, for messages.

    Raises:
        DataError: the header contradicts itself or the size of the file, or describes something
            else than one real, three-dimensional volume with an invertible affine in mm.
    """
    from nibabel.spatialimages import HeaderDataError

    header = _header(content, version)
    _check_voxel_size(header, path)  # before nibabel's repair makes a one out of a zero
    try:
        header.check_fix()
        dtype, shape = header.get_data_dtype(), tuple(int(n) for n in header.get_data_shape())
        slope, intercept = header.get_slope_inter()
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        offset = int(header["vox_offset"])  # NIfTI-1 stores a float, which may be none
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: the NIfTI header is damaged or contradicts itself (nibabel says: {error});"
            " download or convert it again"
        ) from error
    _check_dtype(dtype, path)
    _check_shape(shape, path)
    _check_affine(affine, path)
    _check_extent(
        len(content), offset, prod(shape) * dtype.itemsize, header.single_vox_offset, path
    )
    return StoredForm(
        version=version,
        prefix=content[:offset],
        shape=shape,
        dtype=dtype,
        slope=1.0 if slope is None else slope,
        intercept=0.0 if slope is None else intercept,
        affine=affine,
        affine_is_stated=bool(header["sform_code"] > 0 or header["qform_code"] > 0),
        orientation=orientation_of(affine),
        description=header["descrip"].item().split(b"\0")[0].decode("latin-1"),
    )


def with_dtype(form: StoredForm, dtype: np.dtype[Any], path: Path) -> StoredForm:
    """The same space for values of another dtype, without scaling and with no display range.

    Raises:
        DataError: NIfTI has no such dtype.
    """
    from nibabel.spatialimages import HeaderDataError

    header = _header(form.prefix, form.version)
    size = len(header.binaryblock)
    try:
        if not _is_real(dtype):
            raise HeaderDataError("neither integers nor floats of at most 64 bits")
        header.set_data_dtype(dtype)
    except HeaderDataError as error:
        raise DataError(
            f"{path}: {dtype.name} cannot be written as NIfTI ({error}); choose uint8, int16 or"
            " float32"
        ) from error
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"], header["cal_max"] = 0, 0
    return replace(
        form,
        prefix=header.binaryblock + form.prefix[size:],
        dtype=header.get_data_dtype(),
        slope=1.0,
        intercept=0.0,
    )


def _header(content: bytes, version: int) -> Any:
    """The header as nibabel sees it, unchecked and unrepaired."""
    from nibabel import Nifti1Header, Nifti2Header

    kind: Any = Nifti1Header if version == 1 else Nifti2Header
    return kind(content[: kind.template_dtype.itemsize], check=False)


def _check_voxel_size(header: Any, path: Path) -> None:
    sizes = [float(size) for size in header["pixdim"][1 : 1 + _SPATIAL_AXES]]
    if not all(np.isfinite(size) and size != 0 for size in sizes):
        raise DataError(
            f"{path}: the header gives voxel sizes of {sizes}; correct pixdim (and the affine) from"
            " the scanner's record"
        )
    unit = int(header["xyzt_units"]) & _UNIT_MASK
    if unit not in _MILLIMETRES:
        raise DataError(
            f"{path}: the header measures voxels in {_UNITS.get(unit, f'unknown unit {unit}')};"
            " convert affine and pixdim to millimetres (xyzt_units 2)"
        )


def _is_real(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iuf" and dtype.itemsize <= 8


def _check_dtype(dtype: np.dtype[Any], path: Path) -> None:
    if not _is_real(dtype):
        what = "colours" if dtype.kind == "V" else dtype.name
        raise DataError(
            f"{path} holds {what} where grey values or labels are expected; convert it to int16 or"
            " float32 (the magnitude, for complex values)"
        )


def _check_shape(shape: tuple[int, ...], path: Path) -> None:
    if len(shape) < _SPATIAL_AXES or min(shape) < 1:
        raise DataError(f"{path} has shape {shape}; expected three axes of at least one voxel")
    if any(size != 1 for size in shape[_SPATIAL_AXES:]):
        raise DataError(
            f"{path} has shape {shape}: several volumes or channels where one is expected; extract"
            " the one that is meant, for example with fslroi"
        )


def _check_affine(affine: npt.NDArray[np.float64], path: Path) -> None:
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    regular = bool(np.isfinite(affine).all() and (lengths > 0).all())
    if not regular or abs(np.linalg.det(axes / lengths)) < _LEAST_VOLUME:
        raise DataError(
            f"{path}: the affine {affine[:3].tolist()} is singular: several voxels would lie at one"
            " place; correct sform or qform in the header"
        )


def _check_extent(found: int, offset: int, size: int, least: int, path: Path) -> None:
    """The voxels, ``size`` bytes from ``offset`` on, lie behind the header and are all there."""
    if offset < least:
        raise DataError(
            f"{path}: the header puts the first voxel at byte {offset}, inside the header (at least"
            f" {least}); download or convert it again"
        )
    if found < offset + size:
        raise DataError(
            f"{path} is truncated: the header promises {offset + size} bytes, {found} are there"
            " (unpacked); download or copy it again"
        )
