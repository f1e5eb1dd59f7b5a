"""NIfTI volumes in memory and back into their own space, without loss.

The array that the rest of the library sees always runs to the subject's right, anterior and
superior (RAS). nibabel interprets headers and orientations (https://nifti.nimh.nih.gov, NIfTI-1 and
NIfTI-2). Ours is what it leaves open: a packed file is unpacked whole, so that its checksum is
compared; what contradicts itself is refused; and what is written into the space of another file
has that file's header byte by byte, extensions included.
"""

import gzip
import hashlib
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from psc.errors import ConfigError, DataError
from psc.files import reading, replacing
from psc.volumes.reading import FileRecord

SYNTHETIC_STAMP = "psc synthetic"
"""How the header's description of a phantom begins."""

SPACE_TOLERANCE = 1e-3
"""Distance in mm by which corners of two grids may differ beside what quaternions lose."""

NEAREST: Literal[0] = 0
LINEAR: Literal[1] = 1
Order = Literal[0, 1]
Shape = tuple[int, int, int]
VoxelSize = tuple[float, float, float]
Factors = npt.NDArray[np.float64]
Affine = npt.NDArray[np.float64]
"""(4, 4), from voxel indices to mm."""

ENDINGS = (".nii", ".nii.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_UNIT_MASK, _OTHER_UNITS = 0x07, {1: "metres", 3: "micrometres"}  # all else means millimetres
_LEAST_VOLUME = 1e-4  # of the parallelepiped that the axes' directions span; 1 if perpendicular
_MOST_VOXELS = 2**30  # of a resampled volume; a voxel size in other units than mm exceeds it
_SAME_SIZE = 1e-6  # relative; headers store float32
_SAME_PLACE = 1e-3  # in voxels

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StoredForm:
    """How a file stores its volume: what writing into the same space needs."""

    header: Any  # nibabel's
    prefix: bytes  # all before the first voxel, extensions included
    affine: Affine  # of the stored array
    orientation: npt.NDArray[np.float64]  # its RAS axes and senses, nibabel's (3, 2)
    slope: float
    intercept: float

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored dtype, in the file's byte order."""
        dtype: np.dtype[Any] = self.header.get_data_dtype()
        return dtype


@dataclass(frozen=True, eq=False)
class NiftiVolume:
    """A volume (D, H, W), its axes in RAS order: to the right, anterior, superior.

    ``data`` has the file's dtype (native byte order), or float64 if the file scales its values.
    """

    path: Path
    data: npt.NDArray[Any]
    affine: Affine
    voxel_size: VoxelSize  # mm
    description: str  # the header's ``descrip``
    file: FileRecord
    form: StoredForm


def read_nifti(path: Path) -> NiftiVolume:
    """Read one three-dimensional volume, its checksum verified and its axes brought to RAS.

    Trailing axes of one are dropped; slope and intercept are applied. Oblique axes stay oblique:
    each goes where it points mostly (closest canonical orientation), nothing is interpolated.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff

    content, record = _read_bytes(path)
    form, shape = _read_form(content, path)
    count, grid_shape = prod(shape), shape[:3]
    stored = np.frombuffer(content, form.dtype, count=count, offset=len(form.prefix))
    ras = apply_orientation(stored.reshape(grid_shape, order="F"), form.orientation)  # type: ignore[no-untyped-call]
    # In C order, in which everything after reads: files are stored the other way round.
    data = np.array(ras, dtype=form.dtype.newbyteorder("="), order="C")
    if (form.slope, form.intercept) != (1.0, 0.0):
        # Finite values may leave float64's range; the check below then says so.
        with np.errstate(over="ignore", invalid="ignore"):
            data = data.astype(np.float64) * form.slope + form.intercept
    _check_finite(data, path)
    affine = form.affine @ inv_ornt_aff(form.orientation, grid_shape)  # type: ignore[no-untyped-call]
    x, y, z = (float(size) for size in _sizes(affine))
    description = form.header["descrip"].item().split(b"\0")[0].decode("latin-1")
    return NiftiVolume(path, data, affine, (x, y, z), description, record, form)


def write_nifti(path: Path, data: npt.NDArray[Any], *, like: NiftiVolume) -> None:
    """Write an array, unscaled and in its own dtype, into the space of another file, atomically.

    Shape with its trailing axes of one, order of axes, affine, units, codes, description and
    extensions are those of ``like``'s file, byte by byte; the display range is reset. The same
    content makes the same file: no time and no name go into a gzip. ``data`` is on the grid of
    ``like.data``. Files named .nii.gz are packed.
    """
    from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

    if data.shape != like.data.shape:
        raise DataError(
            f"{path}: shape {data.shape} cannot be written into the space of {like.path}, which is"
            f" {like.data.shape} in RAS order; bring it onto that grid first"
        )
    if not path.name.lower().endswith(ENDINGS):
        raise DataError(f"{path}: the name must end with {' or '.join(ENDINGS)}; rename it")
    if not _is_real(data.dtype) or data.dtype == np.float16:
        raise DataError(
            f"{path}: {data.dtype} cannot be written as NIfTI; choose uint8, int16 or float32"
        )
    _check_finite(data, path)
    form = like.form
    header = type(form.header)(form.prefix[: form.header.sizeof_hdr], check=False)
    header.set_data_dtype(data.dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"], header["cal_max"] = 0, 0
    turn = ornt_transform(axcodes2ornt("RAS"), form.orientation)  # type: ignore[no-untyped-call]
    grid = apply_orientation(data.astype(header.get_data_dtype()), turn)  # type: ignore[no-untyped-call]
    content = header.binaryblock + form.prefix[header.sizeof_hdr :] + grid.tobytes(order="F")
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def check_same_space(image: NiftiVolume, labels: NiftiVolume) -> None:
    """Refuse two volumes whose voxels are not at the same places.

    Corners may lie ``SPACE_TOLERANCE`` apart, and beside it as far as a grid turns when either
    header states it as a quaternion: three float32 of four, so that near half turns, as axes to
    the left and posterior are, whole directions are known to 0.001 rad only. Programs copy what
    they read from one form into the other, so which form a header has does not matter.
    """
    if image.data.shape != labels.data.shape:
        raise DataError(
            f"{image.path} has shape {image.data.shape}, but {labels.path} has"
            f" {labels.data.shape} (in RAS order); use labels of this image, or resample one"
        )
    last = np.array(image.data.shape) - 1
    corners = np.array([(*(last * side), 1) for side in np.ndindex(2, 2, 2)])
    places = corners @ image.affine.T
    distance = np.linalg.norm(places - corners @ labels.affine.T, axis=1)
    allowed = np.full(len(corners), SPACE_TOLERANCE)
    for volume in (image, labels):  # a quaternion turns a grid about its first stored voxel
        lever = np.linalg.norm(places[:, :3] - volume.form.affine[:3, 3], axis=1)
        allowed += _quaternion_rounding(volume.form.affine) * lever
    worst = int((distance - allowed).argmax())
    if not (distance <= allowed).all():
        raise DataError(
            f"the affines of {image.path} and {labels.path} differ: corners lie"
            f" {distance[worst]:.4g} mm apart ({allowed[worst]:.2g} mm allowed),"
            f" {_rows(image.affine)} against {_rows(labels.affine)}; copy the right affine into the"
            " other header if the voxels do belong together, or resample one of them"
        )


def _read_bytes(path: Path) -> tuple[bytes, FileRecord]:
    """A file's content, unpacked if it is a gzip, and the record of the file as it is stored.

    The whole gzip is unpacked: readers that stop after the last voxel never reach the checksum.
    """
    with reading(path):
        stored = path.read_bytes()
    digest = hashlib.sha256(stored).hexdigest()
    record = FileRecord(name=path.name, bytes=len(stored), sha256=digest)
    if not stored.startswith(_GZIP_MAGIC):
        return stored, record
    try:
        return gzip.decompress(stored), record
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path} ({len(stored)} bytes) is truncated or damaged (gzip says: {error}); download"
            " or copy it again"
        ) from error


def _read_form(content: bytes, path: Path) -> tuple[StoredForm, tuple[int, ...]]:
    """Form and stored shape of an unpacked file; refused if the header contradicts itself."""
    from nibabel.orientations import io_orientation
    from nibabel.spatialimages import HeaderDataError

    header = _header(content, path)
    unit = int(header["xyzt_units"]) & _UNIT_MASK
    if unit in _OTHER_UNITS:
        raise DataError(
            f"{path}: the header measures voxels in {_OTHER_UNITS[unit]}; convert affine and pixdim"
            " to millimetres (xyzt_units 2)"
        )
    sizes = [float(size) for size in header["pixdim"][1:4]]
    stated_sizes = all(np.isfinite(size) and size != 0 for size in sizes)
    try:
        header.check_fix()  # also takes codes that nobody has defined for none
        dtype, shape = header.get_data_dtype(), tuple(int(n) for n in header.get_data_shape())
        slope, intercept = header.get_slope_inter()
        # With an sform pixdim is not used; without one nibabel would make a one out of a zero.
        if not header["sform_code"] and not stated_sizes:
            raise DataError(f"{path}: the header gives voxel sizes of {sizes}; correct pixdim")
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        offset = int(header["vox_offset"])  # NIfTI-1 stores a float, which may be none
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: the NIfTI header is damaged or contradicts itself (nibabel says: {error})"
        ) from error
    _check_voxels(dtype, shape, path)
    axes = np.array(affine)
    with np.errstate(invalid="ignore", divide="ignore"):
        axes[:3, :3] /= _sizes(affine)
    volume = abs(np.linalg.det(axes)) if np.isfinite(axes).all() else 0.0
    if volume < _LEAST_VOLUME:
        raise DataError(
            f"{path}: the affine {affine[:3].tolist()} is singular: several voxels would lie at one"
            " place; correct sform or qform in the header"
        )
    if offset < header.single_vox_offset:
        raise DataError(
            f"{path}: the header puts the first voxel at byte {offset}, inside the header (at least"
            f" {header.single_vox_offset}); correct vox_offset"
        )
    if len(content) < (promised := offset + prod(shape) * dtype.itemsize):
        raise DataError(
            f"{path} is truncated: the header promises {promised} bytes, {len(content)} are there"
            " (unpacked); download or copy it again"
        )
    if not (header["sform_code"] or header["qform_code"]):
        log.warning(
            "%s: neither qform nor sform is set, so left and right are a guess; set one of them if"
            " the file comes from elsewhere",
            path,
        )
    slope, intercept = (1.0, 0.0) if slope is None else (slope, intercept)
    # Rounded, so that at 45° the last digits of a header do not decide where an axis points mostly.
    orientation = io_orientation(np.round(axes, 2) if volume > 0.1 else axes)  # type: ignore[no-untyped-call]
    return StoredForm(header, content[:offset], affine, orientation, slope, intercept), shape


def _header(content: bytes, path: Path) -> Any:
    """The header as nibabel sees it, unchecked and unrepaired."""
    from nibabel import Nifti1Header, Nifti2Header

    kinds: tuple[Any, ...] = (Nifti1Header, Nifti2Header)
    kind = next((kind for kind in kinds if kind.may_contain_header(content)), None)
    if kind is None:
        raise DataError(
            f"{path} is not a NIfTI file: of its {len(content)} bytes the first are"
            f" {content[:12]!r}. One .nii or .nii.gz is needed; dcm2niix makes it of DICOM,"
            " mri_convert of pairs and other formats"
        )
    header = kind(content[: kind.sizeof_hdr], check=False)
    if header["magic"].item() == header.pair_magic:
        raise DataError(
            f"{path} is the header of a NIfTI pair (.hdr and .img); convert the pair into one"
            " .nii.gz, for example with fslchfiletype NIFTI_GZ"
        )
    return header


def _is_real(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iuf" and dtype.itemsize <= 8


def _check_voxels(dtype: np.dtype[Any], shape: tuple[int, ...], path: Path) -> None:
    """Real numbers on three axes."""
    if not _is_real(dtype):
        what = "colours" if dtype.kind == "V" else dtype.name
        raise DataError(
            f"{path} holds {what} where grey values or labels are expected; convert it to int16 or"
            " float32 (the magnitude, for complex values)"
        )
    if len(shape) < 3 or min(shape) < 1:
        raise DataError(f"{path} has shape {shape}; expected three axes of at least one voxel")
    if any(size != 1 for size in shape[3:]):
        raise DataError(
            f"{path} has shape {shape}: several volumes or channels where one is expected; extract"
            " the one that is meant, for example with fslroi"
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


def _quaternion_rounding(affine: Affine) -> float:
    """By how many rad at most a grid turns when its quaternion is stored and read again.

    b, c and d are float32, and w² is what they leave of 1: known to about three float32 epsilons,
    below which nibabel takes it for 0. So w itself is the less certain the closer a turn is to
    180°. A turn's error is twice that of its quaternion.
    """
    from nibabel.quaternions import mat2quat

    axes = affine[:3, :3] / _sizes(affine)
    if np.linalg.det(axes) < 0:  # qfac, which headers store apart
        axes[:, 2] *= -1
    w, epsilon = abs(float(mat2quat(axes)[0])), float(np.finfo(np.float32).eps)  # type: ignore[no-untyped-call]
    return 2 * (float(np.sqrt(w**2 + 4 * epsilon)) - w + epsilon)


def _rows(affine: Affine) -> str:
    return str([[round(float(value), 4) for value in row] for row in affine[:3]])


def _sizes(affine: Affine) -> Affine:
    """Of a voxel along each axis, in mm."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0), dtype=np.float64)


def size_factors(voxel_size: VoxelSize, wanted: Sequence[float]) -> Factors:
    """How many voxels long a voxel of another size is, by axis; 1 where headers round a size."""
    factors = np.asarray(wanted, dtype=np.float64) / voxel_size
    return np.where(np.isclose(factors, 1, rtol=0, atol=_SAME_SIZE), 1.0, factors)


def resampled_shape(shape: Shape, factors: Factors) -> Shape:
    """The grid of voxels ``factors`` times as long that covers one of that shape."""
    d, h, w = (
        max(1, ceil(n / factor - _SAME_PLACE)) for n, factor in zip(shape, factors, strict=True)
    )
    if d * h * w > _MOST_VOXELS:
        raise ConfigError(
            f"dataset.voxel_size: resampling {shape} to it would make {(d, h, w)} voxels, more than"
            " 2^30; give it in mm"
        )
    return d, h, w


def resampled(
    data: npt.NDArray[Any], factors: Factors, shape: Shape, *, order: Order
) -> npt.NDArray[Any]:
    """``data`` (D, H, W) in voxels ``factors`` times as long: float32 if linear, else its dtype.

    Both grids begin at the same corner, so that the field of view stays, and 1 / ``factors`` leads
    back. Up to the border the outermost old voxels count. New ones with their centre beyond it are
    0; there may be some in the last layer along each axis, as voxels are whole. Nothing is smoothed
    first, so a much coarser grid aliases. Linear interpolation keeps the sum of probabilities.
    """
    dtype = np.dtype(np.float32) if order == LINEAR else data.dtype
    if shape == data.shape and (factors == 1).all():
        return data.astype(dtype, copy=False)
    # New index i covers old indices factor·i .. factor·(i + 1), counted from the corner at -1/2.
    first = (factors - 1) / 2
    numeric = data.view(np.uint8) if dtype.kind == "b" else data.astype(dtype, copy=False)
    # The outermost voxels reach half a voxel beyond their centres: there they are repeated.
    result = ndimage.affine_transform(
        numeric, factors, first, output_shape=shape, order=order, mode="nearest", prefilter=False
    ).view(dtype)
    for axis, (n, size) in enumerate(zip(shape, data.shape, strict=True)):
        centres = factors[axis] * np.arange(n) + first[axis]
        np.moveaxis(result, axis, 0)[centres > size - 0.5 + _SAME_PLACE] = 0
    return result
