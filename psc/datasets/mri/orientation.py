"""Arrays whose axes run anywhere, brought to RAS and back: axes permuted and turned, no value lost.

nibabel's orientations (https://nipy.org/nibabel/image_orientation.html), whose functions carry no
types, under names that say which way they go.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["from_ras", "orientation_of", "ras_affine", "to_ras"]

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
