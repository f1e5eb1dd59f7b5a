"""Which fragments of two neighbouring blocks are pieces of one.

Both blocks computed fragments on either side of their common face, since each has context beyond
it. Where they agree about a fragment they found the one that the whole volume would have: two
fragments are joined if on the two planes next to the face they share more than half of the voxels
that either has (intersection over union above 1/2, so that each has one partner at most).
"""

import numpy as np
import numpy.typing as npt

__all__ = ["joined_pairs"]

_UInt64 = npt.NDArray[np.uint64]


def joined_pairs(first_view: _UInt64, second_view: _UInt64) -> _UInt64:
    """Pairs of fragments that two blocks saw alike.

    Args:
        first_view: ids that the block before the face gave to any voxels near it, 0 = none.
        second_view: the ids that the block after it gave to the same voxels.

    Returns:
        uint64 (pairs, 2): an id of the first view and the one of the second that it is joined to.
    """
    first_ids, first = np.unique(first_view, return_inverse=True)
    second_ids, second = np.unique(second_view, return_inverse=True)
    code = first.reshape(-1).astype(np.int64) * second_ids.size + second.reshape(-1)
    pairs, common = np.unique(code, return_counts=True)
    i, j = np.divmod(pairs, second_ids.size)
    either = np.bincount(first.reshape(-1))[i] + np.bincount(second.reshape(-1))[j] - common
    alike = (2 * common > either) & (first_ids[i] != 0) & (second_ids[j] != 0)
    return np.stack([first_ids[i[alike]], second_ids[j[alike]]], axis=1).reshape(-1, 2)
