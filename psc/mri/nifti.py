"""NIfTI volumes in memory and back into their own space, without loss.

The array that the rest of the library sees always runs to the subject's right, anterior and
superior (RAS); what it takes to write another array into the space of the file stays with it: the
header's own bytes, extensions included, the stored shape and the stored order of the axes.

Formats: NIfTI-1 (https://nifti.nimh.nih.gov/nifti-1, nifti1.h) and NIfTI-2, in one file, packed
or not. nibabel interprets headers and orientations.
"""

import contextlib
import gzip
import hashlib
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from psc.errors import ConfigError, DataError
from psc.volumes.reading import FileRecord

# ----------------------------------------
# The bytes of a NIfTI file: unpacked whole on reading, replaced in one step on writing.


GZIP_SUFFIX = ".gz"
SUFFIXES = (".nii", ".nii.gz")
"""Names that NIfTI files end with."""

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_LEVEL = 6

# (first byte, magic, version, whether voxels lie in a file of their own); the magics are those of
# nifti1.h and nifti2.h.
_MAGICS = (
    (344, b"n+1\x00", 1, False),
    (344, b"ni1\x00", 1, True),
    (4, b"n+2\x00\r\n\x1a\n", 2, False),
    (4, b"ni2\x00\r\n\x1a\n", 2, True),
)
_HEADER_SIZES = {1: 348, 2: 540}

_FOREIGN: Mapping[bytes, str] = {
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\xfd7zXZ": "an xz archive; unpack it first",
    b"NRRD": "an NRRD volume; convert it to NIfTI",
    b"\x00\x00\x00\x01\x00\x00": "perhaps a FreeSurfer .mgz; convert it with mri_convert",
    b"\x89HDF": "HDF5 (perhaps MINC-2); convert it to NIfTI",
    b"CDF": "NetCDF (perhaps MINC-1); convert it to NIfTI",
    b"version https://git-lfs": "a Git LFS pointer, not the data; run git lfs pull",
    b"<": "a web page (the server's error message, perhaps); download it again",
}


def read_bytes(path: Path) -> tuple[bytes, FileRecord]:
    """A file's content, unpacked if it is a gzip, and the record of the file as it is stored.

    The whole gzip is unpacked, so that its checksum is compared: readers that stop after the last
    voxel never reach it.

    Raises:
        DataError: the file is missing, unreadable, empty, or a truncated or damaged gzip.
    """
    try:
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise DataError(f"{path} {what}; correct the path, or download the data first")
        stored = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); correct its permissions") from error
    if not stored:
        raise DataError(f"{path} is empty; download or copy it again")
    record = FileRecord(
        name=path.name, bytes=len(stored), sha256=hashlib.sha256(stored).hexdigest()
    )
    if not stored.startswith(_GZIP_MAGIC):
        return stored, record
    try:
        return gzip.decompress(stored), record
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path} ({len(stored)} bytes) is truncated or damaged (gzip says: {error});"
            " download or copy it again"
        ) from error


def nifti_version(content: bytes, path: Path) -> int:
    """1 or 2, by the magic bytes of a header with its voxels in the same file.

    Args:
        content: the unpacked file.
        path: its name, for the message.

    Raises:
        DataError: it is something else; the message says what, where that can be told.
    """
    for first, magic, version, apart in _MAGICS:
        if content[first : first + len(magic)] != magic:
            continue
        if apart:
            raise DataError(
                f"{path} is the header of a NIfTI pair (.hdr and .img); convert the pair into one"
                " .nii.gz, for example with fslchfiletype NIFTI_GZ"
            )
        if len(content) < _HEADER_SIZES[version]:
            break
        return version
    raise DataError(f"{path} is not a NIfTI file: {_what_it_is(content, path)}")


def _what_it_is(content: bytes, path: Path) -> str:
    for magic, meaning in _FOREIGN.items():
        if content.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(magic) or content.startswith(magic):
            return f"it is {meaning}"
    if content[128:132] == b"DICM":
        return "it is a DICOM image; convert the series with dcm2niix"
    if path.name.lower().endswith((".hdr", ".img", ".hdr.gz", ".img.gz")):
        return "it belongs to a pair (.hdr and .img); convert the pair into one .nii.gz"
    if content[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):  # 348, Analyze's header size
        return "it looks like an Analyze 7.5 header; convert it into one .nii.gz"
    return f"it begins with the bytes {content[:8].hex(' ')}; check where it came from"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step, as a gzip if its name ends with .gz.

    The same content makes the same file: no time and no name go into the gzip. An existing file
    is replaced once the new one is complete; nothing is left behind otherwise.

    Raises:
        DataError: ``path`` does not end with .nii or .nii.gz, or the disk refuses or is full.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{path}: the name must end with {' or '.join(SUFFIXES)}; rename it")
    if path.name.lower().endswith(GZIP_SUFFIX):
        content = gzip.compress(content, _GZIP_LEVEL, mtime=0)
    partial = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder itself may be what failed
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise DataError(
                f"could not write {path}: {error}; free disk space or correct the folder's"
                " permissions, and run it again"
            ) from error
        raise


# ----------------------------------------
# Arrays whose axes run anywhere, brought to RAS and back: axes permuted and turned, no value lost.
#
# nibabel's orientations (https://nipy.org/nibabel/image_orientation.html), whose functions carry no
# types, under names that say which way they go.


_RAS = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])


def orientation_of(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where stored axes point mostly: (3, 2), for each the RAS axis and 1 or -1 for its sense.

    No two get the same RAS axis, so oblique volumes have an orientation as well. ``affine`` must
    be invertible.
    """
    from nibabel.orientations import io_orientation

    return np.asarray(io_orientation(affine), dtype=np.float64)  # type: ignore[no-untyped-call]


def to_ras(stored: npt.NDArray[Any], orientation: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """A stored array (three axes) as (D, H, W) in RAS order; a view."""
    from nibabel.orientations import apply_orientation

    return np.asarray(apply_orientation(stored, orientation))  # type: ignore[no-untyped-call]


def from_ras(data: npt.NDArray[Any], orientation: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """The inverse of ``to_ras``; a view."""
    from nibabel.orientations import apply_orientation, ornt_transform

    back = ornt_transform(_RAS, orientation)  # type: ignore[no-untyped-call]
    return np.asarray(apply_orientation(data, back))  # type: ignore[no-untyped-call]


def ras_affine(
    affine: npt.NDArray[np.float64],
    orientation: npt.NDArray[np.float64],
    shape: tuple[int, ...],
) -> npt.NDArray[np.float64]:
    """The affine of ``to_ras(stored, orientation)``: every voxel stays where it is.

    Args:
        affine: (4, 4), of the stored array.
        orientation: of the stored array.
        shape: of the stored array, three axes.
    """
    from nibabel.orientations import inv_ornt_aff

    turned = inv_ornt_aff(orientation, shape)  # type: ignore[no-untyped-call]
    return np.asarray(affine @ turned, dtype=np.float64)


# ----------------------------------------
# What a NIfTI header says of the voxels that follow it, checked before they are touched.


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


# ----------------------------------------
# Volumes on a grid of other voxels, and what was computed there back on their own.
#
# Old and new grid have the same directions and the same first corner, so that the field of view
# stays: it is voxels that get another size, about corners, not about their centres. SciPy
# interpolates; nothing is smoothed first, so a much coarser grid aliases.


NEAREST: Literal[0] = 0
LINEAR: Literal[1] = 1
Order = Literal[0, 1]

MOST_VOXELS = 2**30
"""Of a resampled volume, 4 GiB of float32; a voxel size in other units than mm exceeds it."""

_SAME_SIZE = 1e-6  # relative; headers store float32
_SAME_PLACE = 1e-3  # in voxels


def to_voxel_size(
    data: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    voxel_size: tuple[float, float, float],
    *,
    order: Order,
    fill: float = 0,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Resample to voxels of another size.

    Args:
        data: (D, H, W).
        affine: (4, 4), from indices of ``data`` to mm.
        voxel_size: mm along D, H and W.
        order: ``LINEAR`` for images, ``NEAREST`` for labels and masks.
        fill: value of new voxels with their centre outside the old field of view; there may be
            some in the last layer along each axis, as voxels are whole. Up to the border the
            outermost old voxels count.

    Returns:
        (D', H', W'), float32 if linear, else in its own dtype; and its affine.

    Raises:
        ConfigError: sizes that are not positive, or so small that no memory would hold the volume.
    """
    target = resized_affine(affine, voxel_size)
    factors = _sizes(target) / _sizes(affine)
    shape = tuple(
        max(1, ceil(n / factor - _SAME_PLACE))
        for n, factor in zip(data.shape, factors, strict=True)
    )
    if prod(shape) > MOST_VOXELS:
        raise ConfigError(
            f"dataset.voxel_size={list(voxel_size)}: resampling {data.shape} to it would make"
            f" {shape} voxels, more than 2^30; give it in mm"
        )
    return _resample(data, affine, (shape[0], shape[1], shape[2]), target, order, fill), target


def resized_affine(
    affine: npt.NDArray[np.float64], voxel_size: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    """The affine of ``to_voxel_size``: same directions and first corner, other voxels.

    Args:
        affine: (4, 4), of the old grid.
        voxel_size: mm; sizes that the grid has already change nothing.

    Raises:
        ConfigError: sizes that are not positive and finite.
    """
    sizes = np.asarray(voxel_size, dtype=np.float64)
    if sizes.shape != (3,) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ConfigError(f"dataset.voxel_size={list(voxel_size)}: must be three positive mm")
    old = _sizes(affine)
    factors = np.where(np.isclose(sizes, old, rtol=_SAME_SIZE, atol=0), 1.0, sizes / old)
    scale = np.diag([*factors, 1.0])
    # New index i covers old indices factor·i .. factor·(i + 1), counted from the corner at -1/2.
    scale[:3, 3] = (factors - 1) / 2
    return affine @ scale


def back(
    data: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
    target_affine: npt.NDArray[np.float64],
    *,
    order: Order = LINEAR,
    fill: float = 0,
) -> npt.NDArray[Any]:
    """Bring channels that were computed on a resampled grid back onto the original one.

    Args:
        data: (C, D', H', W'), class probabilities for example; linear interpolation leaves their
            sum at one.
        affine: (4, 4), from indices of ``data`` to mm.
        shape: (D, H, W) of the original grid.
        target_affine: (4, 4) of the original grid; same directions as ``affine``.
        order: ``LINEAR``, or ``NEAREST`` for labels.
        fill: value of voxels with their centre outside the grid of ``data``; there are none after
            ``to_voxel_size``.

    Returns:
        (C, D, H, W), float32 if linear, else in its own dtype.

    Raises:
        DataError: the axes of the two grids do not have the same directions.
    """
    if data.ndim != _SPATIAL_AXES + 1:
        raise DataError(f"back expects channels (C, D, H, W), got shape {data.shape}")
    dtype = np.float32 if order == LINEAR else data.dtype
    result = np.empty((len(data), *shape), dtype=dtype)
    for channel, values in zip(result, data, strict=True):
        channel[...] = _resample(values, affine, shape, target_affine, order, fill)
    return result


def _resample(
    data: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
    target_affine: npt.NDArray[np.float64],
    order: Order,
    fill: float,
) -> npt.NDArray[Any]:
    """``data`` (D, H, W) on a grid with the same directions."""
    dtype = np.dtype(np.float32) if order == LINEAR else data.dtype
    steps, offsets = _between(affine, target_affine, shape)
    if shape == data.shape and (steps == 1).all() and (offsets == 0).all():
        return data.astype(dtype, copy=False)
    numeric = data.view(np.uint8) if dtype.kind == "b" else data.astype(dtype, copy=False)
    # The outermost voxels reach half a voxel beyond their centres: there they are repeated.
    result = ndimage.affine_transform(
        numeric, steps, offsets, output_shape=shape, order=order, mode="nearest", prefilter=False
    ).view(dtype)
    for axis, (n, size) in enumerate(zip(shape, data.shape, strict=True)):
        centres = steps[axis] * np.arange(n) + offsets[axis]
        outside = (centres < -0.5 - _SAME_PLACE) | (centres > size - 0.5 + _SAME_PLACE)
        np.moveaxis(result, axis, 0)[outside] = fill
    return result


def _between(
    affine: npt.NDArray[np.float64],
    target_affine: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Old index = step · new index + offset, for each axis."""
    matrix = np.linalg.inv(affine) @ target_affine
    linear = matrix[:3, :3]
    steps = np.diag(linear)
    drift = np.abs(linear - np.diag(steps)) @ np.array(shape)
    if (steps <= 0).any() or (drift > _SAME_PLACE * np.maximum(1, steps)).any():
        raise DataError(
            f"the affines {affine[:3].tolist()} and {target_affine[:3].tolist()} have axes of"
            " different directions; only voxel sizes may differ here, so bring both to RAS, or"
            " resample with another program"
        )
    return _rounded(steps), _rounded(matrix[:3, 3])


def _rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Without the last digits, which inverting an affine leaves: 1 is to be 1, 0 to be 0."""
    return np.round(values, 9)


def _sizes(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0), dtype=np.float64)


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
