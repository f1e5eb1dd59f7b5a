"""Windows of volumes, turned or deformed: where every voxel comes from, and its value there.

Sources are float32 (3, D, H, W): for every voxel of a patch the position (z, y, x) that its value
comes from, in voxels from the patch's first voxel (or from that of the box that is sampled).
"""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from psc.volumes.metadata import Size3, size3

Sources = npt.NDArray[np.float32]
_ScalarT = TypeVar("_ScalarT", bound=np.generic)


def control_points(size: int, spacing: int) -> int:
    """How many control points along an axis reach every voxel of it, whatever the phase."""
    return (size - 1) // spacing + 5


def smooth_field(
    controls: npt.NDArray[np.float64],
    spacing: Size3,
    phase: npt.NDArray[np.float64],
    shape: Size3,
) -> npt.NDArray[np.float32]:
    """The uniform cubic B-spline of a grid of coefficients (as in free-form deformation).

    Twice continuously differentiable, and nowhere outside the coefficients' range: the weights of
    a voxel are positive and sum to 1. Along each axis there are ``control_points``, ``spacing``
    voxels apart, and the first voxel lies at ``phase`` in [0, 1) between two of them.
    """
    z, y, x = (
        _spline_weights(size, step, start)
        for size, step, start in zip(shape, spacing, phase.tolist(), strict=True)
    )
    rows = y @ (controls.astype(np.float32) @ x.T)  # axis by axis: (a, b, W), then (a, H, W)
    field: npt.NDArray[np.float32] = np.tensordot(z, rows, axes=1)
    return field


def affine_sources(
    matrix: npt.NDArray[np.float64], offset: npt.NDArray[np.float64], shape: Size3
) -> Sources:
    """The sources ``matrix`` · voxel + ``offset`` of a patch of that shape."""
    sources = np.empty((3, *shape), dtype=np.float32)
    _place_affinely(matrix, offset, sources)
    return sources


def source_box(sources: Sources) -> tuple[Size3, Size3]:
    """First voxel and size of the smallest box that interpolation at the sources reads."""
    flat = sources.reshape(3, -1)
    low = np.floor(flat.min(axis=1)).astype(int)
    size = np.floor(flat.max(axis=1)).astype(int) + 2 - low
    return size3(low), size3(size)


def sample_linear(
    box: npt.NDArray[np.float32], sources: Sources, origin: Size3 = (0, 0, 0)
) -> npt.NDArray[np.float32]:
    """Trilinear interpolation, float32 (D, H, W) in C order; exact where sources are whole numbers.

    ``box`` is what ``source_box`` asks for, or larger, and begins at ``origin``.
    """
    sampled = np.empty(sources.shape[1:], dtype=np.float32)
    _interpolate(np.ascontiguousarray(box), sources, np.asarray(origin), sampled)
    return sampled


def sample_nearest(
    box: npt.NDArray[_ScalarT], sources: Sources, origin: Size3 = (0, 0, 0)
) -> npt.NDArray[_ScalarT]:
    """The nearest voxel's value, halves rounded up; otherwise as ``sample_linear``."""
    sampled = np.empty(sources.shape[1:], dtype=box.dtype)
    _take_nearest(np.ascontiguousarray(box), sources, np.asarray(origin), sampled)
    return sampled


def _spline_weights(size: int, spacing: int, phase: float) -> npt.NDArray[np.float32]:
    """Weights of the control points (columns) for every voxel (rows) along one axis."""
    position = np.arange(size) / spacing + phase
    first = position.astype(int)
    t = position - first
    weights = np.zeros((size, control_points(size, spacing)), dtype=np.float32)
    voxels = np.arange(size)
    weights[voxels, first] = (1 - t) ** 3 / 6
    weights[voxels, first + 1] = (3 * t**3 - 6 * t**2 + 4) / 6
    weights[voxels, first + 2] = (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
    weights[voxels, first + 3] = t**3 / 6
    return weights


# scipy.ndimage.map_coordinates is their oracle in the tests, and several times slower. Nothing
# checks that sources lie in the box: callers make it so that they do.


@njit(nogil=True, cache=True)
def _place_affinely(matrix: Any, offset: Any, sources: Any) -> Any:
    _, depth, height, width = sources.shape
    for axis in range(3):
        for d in range(depth):
            for h in range(height):
                start = matrix[axis, 0] * d + matrix[axis, 1] * h + offset[axis]
                for w in range(width):
                    sources[axis, d, h, w] = start + matrix[axis, 2] * w


@njit(nogil=True, inline="always")
def _trilinear(box: Any, z: float, y: float, x: float) -> Any:
    i, j, k = int(z), int(y), int(x)
    z, y, x = z - i, y - j, x - k
    near = box[i, j, k] * (1 - x) + box[i, j, k + 1] * x
    far = box[i, j + 1, k] * (1 - x) + box[i, j + 1, k + 1] * x
    here = near * (1 - y) + far * y
    near = box[i + 1, j, k] * (1 - x) + box[i + 1, j, k + 1] * x
    far = box[i + 1, j + 1, k] * (1 - x) + box[i + 1, j + 1, k + 1] * x
    return here * (1 - z) + (near * (1 - y) + far * y) * z


@njit(nogil=True, cache=True)
def _interpolate(box: Any, sources: Any, origin: Any, sampled: Any) -> Any:
    depth, height, width = sampled.shape
    for d in range(depth):
        for h in range(height):
            for w in range(width):
                z = sources[0, d, h, w] - origin[0]
                y = sources[1, d, h, w] - origin[1]
                x = sources[2, d, h, w] - origin[2]
                sampled[d, h, w] = _trilinear(box, z, y, x)


@njit(nogil=True, cache=True)
def _take_nearest(box: Any, sources: Any, origin: Any, sampled: Any) -> Any:
    depth, height, width = sampled.shape
    for d in range(depth):
        for h in range(height):
            for w in range(width):
                i = int(sources[0, d, h, w] - origin[0] + 0.5)
                j = int(sources[1, d, h, w] - origin[1] + 0.5)
                k = int(sources[2, d, h, w] - origin[2] + 0.5)
                sampled[d, h, w] = box[i, j, k]
