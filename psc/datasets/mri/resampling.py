"""Volumes on a grid of other voxels, and what was computed there back on their own.

Old and new grid have the same directions and the same first corner, so that the field of view
stays: it is voxels that get another size, about corners, not about their centres. SciPy
interpolates; nothing is smoothed first, so a much coarser grid aliases.
"""

from math import ceil, prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from psc.errors import ConfigError, DataError

__all__ = ["LINEAR", "NEAREST", "back", "resized_affine", "to_voxel_size"]

NEAREST: Literal[0] = 0
LINEAR: Literal[1] = 1
Order = Literal[0, 1]

MOST_VOXELS = 2**30
"""Of a resampled volume, 4 GiB of float32; a voxel size in other units than mm exceeds it."""

_SAME_SIZE = 1e-6  # relative; headers store float32
_SAME_PLACE = 1e-3  # in voxels
_SPATIAL_AXES = 3


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
