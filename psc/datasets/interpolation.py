"""Trilinear interpolation for compiled kernels that resample volumes."""

from typing import Any

from numba import njit

__all__ = ["trilinear"]


@njit(nogil=True, inline="always")
def trilinear(box: Any, z: float, y: float, x: float) -> Any:
    """Value of an array (D, H, W) between its voxels.

    Nothing checks that the eight voxels around the point are there: callers make boxes so that
    they are. ``scipy.ndimage`` is the oracle of those who call it, and several times slower.

    Args:
        box: array (D, H, W).
        z: 0 ≤ z < D − 1, in voxels.
        y: 0 ≤ y < H − 1.
        x: 0 ≤ x < W − 1.
    """
    i, j, k = int(z), int(y), int(x)
    z, y, x = z - i, y - j, x - k
    near = box[i, j, k] * (1 - x) + box[i, j, k + 1] * x
    far = box[i, j + 1, k] * (1 - x) + box[i, j + 1, k + 1] * x
    here = near * (1 - y) + far * y
    near = box[i + 1, j, k] * (1 - x) + box[i + 1, j, k + 1] * x
    far = box[i + 1, j + 1, k] * (1 - x) + box[i + 1, j + 1, k + 1] * x
    return here * (1 - z) + (near * (1 - y) + far * y) * z
