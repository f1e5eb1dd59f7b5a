"""Which voxels of a skull-stripped volume are brain: those that differ from what is around it.

Stripping leaves exactly one value outside, zero as a rule, and then nothing has to be decided.
What comes after it may not: a shift of the intensities moves that value, bias correction and noise
spread it, and a spline rings around the brain. All of that is small beside the brain's intensities
and lies outside of it, in one piece with the volume's faces.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from psc.errors import DataError
from psc.mri.nifti import NiftiVolume

_Mask = npt.NDArray[np.bool_]

_MOST_BRAIN = 0.9  # of the voxels; IBSR's brains are a tenth to a fifth of theirs
_COMMON = 0.1  # of the faces' voxels have one value, if that is the background's
_ONE_PIECE = 0.99  # of what differs from the background, if nothing but the brain does
_DIM = 0.2  # of the brain's intensities; what is left around it is less: splines ring by a tenth
_NOISY = 0.05  # of the faces' voxels are dim, but not exactly background
_MARGIN = 3.0  # times the 95th percentile of noise: six standard deviations
_SMALLEST_PIECE = 0.01  # of the largest

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Brain:
    """Where the brain is."""

    mask: _Mask  # (D, H, W)
    level: float  # grey value of the background
    is_exact: bool  # whether all of the background has exactly that value, and it is zero


def find_brain(volume: NiftiVolume, above: float | None = None) -> Brain:
    """Tell the brain from its background; what is not plain is logged with the key that settles it.

    The brain is what is brighter than ``above``; None decides by the volume.
    """
    data, path = volume.data, volume.path
    if above is not None:
        mask = np.asarray(data > above)
        if not mask.any():
            raise DataError(f"{path}: no voxel is above brain_above={above:g}, but the brain is")
        return Brain(mask, float(np.median(data[~mask])) if not mask.all() else above, False)
    faces = _faces(data)
    level, is_common = _commonest(faces)
    values = data.astype(np.float64) - level if level else data
    mask = np.asarray(values != 0)
    if not mask.any():
        raise DataError(
            f"{path}: every voxel is {level:g}; expected a skull-stripped T1 volume, so download or"
            " convert it again"
        )
    said = [f"it is {level:g}"] if level and is_common else []
    dim = _DIM * float(np.percentile(values, 99.5))
    ringing = _ringing(values)
    rings = 0 < ringing < dim
    noise = max(ringing if rings else 0.0, _noise(faces - level, dim, is_common=is_common))
    if noise:
        said.append(f"it varies by {noise:.2g} about {level:.3g}, as noise or a spline leaves it")
        if noise > dim:
            raise DataError(
                f"{path}: the brain cannot be told from its background: {'; '.join(said)}. Strip"
                " the skull, or say what is brain: brain_above=VALUE (in training"
                " dataset.brain_above), above which a voxel is"
            )
    apart = np.count_nonzero(mask) - int(_sizes_of_pieces(mask)[1].max())
    if noise or apart > (1 - _ONE_PIECE) * np.count_nonzero(mask):
        said += [] if noise else [f"{apart} voxels that differ from it lie apart from the brain"]
        mask = _within(values, np.asarray(values <= noise if rings else abs(values) <= noise))
    share = float(mask.mean())
    if said or share > _MOST_BRAIN:
        log.warning(
            "%s: the background is not zero everywhere (%s); taken as brain: %.1f %% of the voxels,"
            " and all around it as %g. brain_above=VALUE (in training dataset.brain_above) decides"
            " otherwise",
            path,
            "; ".join(said) or "hardly any of the voxels are",
            100 * share,
            level,
        )
    return Brain(mask, level, not said)


def _faces(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """All that lies on the six faces of the volume."""
    faces = [np.take(data, side, axis).ravel() for axis in range(3) for side in (0, -1)]
    return np.concatenate(faces)


def _commonest(faces: npt.NDArray[Any]) -> tuple[float, bool]:
    """The background's value: the most frequent one on the faces, or their median if none is."""
    values, counts = np.unique(faces, return_counts=True)
    is_common = bool(counts.max() >= _COMMON * faces.size)
    level = values[counts.argmax()] if is_common else np.median(faces)
    return float(level) + 0.0, is_common  # 0 where it is −0


def _ringing(values: npt.NDArray[Any]) -> float:
    """How deep a spline's overshoot is, but for the deepest twentieth of it."""
    negative = values[values < 0]
    if negative.size == 0:
        return 0.0
    # A spline goes on ringing by less and less: what is hardly negative does not count.
    return -float(np.percentile(negative[negative <= 0.1 * negative.min()], 5))


def _noise(faces: npt.NDArray[Any], dim: float, *, is_common: bool) -> float:
    """What hardly any voxel of a varying background exceeds; 0 where it is constant.

    ``faces`` are differences to the background's value, which ``is_common`` or a median. The brain
    may reach some of them; what is ``dim`` is not brain.
    """
    sizes = abs(faces)
    is_dim = sizes <= dim
    between = np.count_nonzero(is_dim & (sizes > 0))
    if is_common and between <= max(_NOISY * faces.size, 0.5 * np.count_nonzero(sizes)):
        return 0.0
    around = sizes[is_dim] if 2 * np.count_nonzero(is_dim) > faces.size else sizes
    return _MARGIN * float(np.percentile(around, 95))


def _sizes_of_pieces(mask: _Mask) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.int_]]:
    """The number of every voxel's piece, 0 outside; how many voxels a piece has, none for 0."""
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces, sizes


def _within(values: npt.NDArray[Any], low: _Mask) -> _Mask:
    """What the low voxels that are in one piece with the faces enclose, but for specks."""
    pieces, sizes = _sizes_of_pieces(low)
    outer = np.zeros(sizes.size, dtype=bool)
    outer[np.unique(_faces(pieces))] = True
    outer[0] = False
    mask = ~outer[pieces] & (values != 0)
    pieces, sizes = _sizes_of_pieces(mask)
    large = np.asarray(sizes >= max(1, _SMALLEST_PIECE * sizes.max()))
    return np.asarray(large[pieces])
