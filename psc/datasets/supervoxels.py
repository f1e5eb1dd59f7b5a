"""Supervoxels and bodies: labels that come as an over-segmentation and a map that merges it.

NeuroProof's and FIB-25's ground truth is stored this way (dataset ``stack`` beside ``transforms``).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from psc.errors import DataError
from psc.segmentation.labels import relabel_consecutive

__all__ = ["bodies_from_supervoxels"]

_MOST_LISTED = 10


def bodies_from_supervoxels(
    supervoxels: npt.NDArray[np.integer[Any]], transforms: npt.NDArray[Any], where: str
) -> npt.NDArray[np.uint64]:
    """Replace the supervoxel ids of a volume by the ids of the bodies they belong to.

    Args:
        supervoxels: integer array of any shape, no negative ids, 0 = background.
        transforms: integer array (N, 2) of rows (supervoxel, body). Supervoxel 0 needs no row.
        where: file and dataset of the map, for messages.

    Returns:
        Body ids, uint64, same shape as ``supervoxels``; 0 stays 0.

    Raises:
        DataError: the map is not a table of non-negative integers, gives a supervoxel two bodies,
            or gives some supervoxel of the volume none.
    """
    if transforms.ndim != 2 or transforms.shape[1] != 2 or transforms.dtype.kind not in "iu":
        raise DataError(
            f"{where}: expected integer rows (supervoxel, body), found {transforms.dtype} of shape"
            f" {transforms.shape}; restore the map that belongs to this volume"
        )
    if transforms.size and transforms.min() < 0:
        raise DataError(f"{where}: negative id {transforms.min()}; ids must be 0 or larger")
    rows = np.unique(transforms.astype(np.uint64), axis=0)  # sorted by supervoxel
    known, first = np.unique(rows[:, 0], return_index=True)
    if known.size != len(rows):
        repeated = rows[1:, 0][rows[1:, 0] == rows[:-1, 0]]
        raise DataError(
            f"{where}: supervoxels with two bodies: {_some(repeated)}; keep one row for each"
        )
    dense, supervoxel_ids = relabel_consecutive(supervoxels)
    present = supervoxel_ids[1:]
    missing = present[~np.isin(present, known)]
    if missing.size:
        raise DataError(
            f"{where}: {missing.size} supervoxels have no body: {_some(missing)}; the map belongs"
            " to another segmentation, or the file is incomplete"
        )
    bodies = np.zeros(supervoxel_ids.size, dtype=np.uint64)
    bodies[1:] = rows[first[np.searchsorted(known, present)], 1]
    return bodies[dense]


def _some(ids: npt.NDArray[np.uint64]) -> str:
    rest = ", …" if ids.size > _MOST_LISTED else ""
    return ", ".join(str(i) for i in np.sort(ids)[:_MOST_LISTED]) + rest
