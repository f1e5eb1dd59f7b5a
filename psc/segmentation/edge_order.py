"""The edges of a grid of voxels: what the labels say about each, and their order by affinity.

Edge e = a · D·H·W + v joins voxel v to its predecessor along axis a (z, y, x); it is the place of
its affinity in a flattened (3, D, H, W) array. Voxels of an axis's first plane have no predecessor,
so no edge.
"""

from typing import Any

import numpy as np
from numba import njit

__all__ = [
    "ALL_EDGES",
    "DIFFERENT",
    "LARGEST_VOLUME",
    "SAME",
    "UNKNOWN",
    "edge_kinds",
    "edges_by_affinity",
]

SAME = 1
"""Both voxels have the same label, not 0: the target affinity is 1."""
DIFFERENT = 2
"""They do not: the target affinity is 0."""
UNKNOWN = 4
"""No target affinity."""
ALL_EDGES = SAME | DIFFERENT | UNKNOWN

LARGEST_VOLUME = (2**31 - 1) // 3
"""Voxels, so that every edge has an int32."""

_ONE = np.uint32(0x3F800000)  # the bits of 1.0: floats that are not negative order as their bits
_DIGIT = 10  # three digits hold the 30 bits of a float in [0, 1], and 1024 counters fit in L1
_VALUES = 1 << _DIGIT


@njit(nogil=True, cache=True)
def edge_kinds(labels: Any, mask: Any) -> Any:
    """What the labels say about every edge.

    Args:
        labels: int32 (D, H, W).
        mask: bool (3, D, H, W), False where nothing is known; or with no element: an edge is then
            known where neither voxel has label 0.

    Returns:
        uint8 (3, D, H, W): SAME, DIFFERENT, UNKNOWN, or 0 where there is no edge.
    """
    depth, height, width = labels.shape
    kinds = np.zeros((3, depth, height, width), dtype=np.uint8)
    for axis in range(3):
        dz, dy, dx = axis == 0, axis == 1, axis == 2
        for z in range(dz, depth):
            for y in range(dy, height):
                for x in range(dx, width):
                    here, before = labels[z, y, x], labels[z - dz, y - dy, x - dx]
                    known = mask[axis, z, y, x] if mask.size else here != 0 and before != 0
                    same = here == before and here != 0
                    kinds[axis, z, y, x] = (SAME if same else DIFFERENT) if known else UNKNOWN
    return kinds


@njit(nogil=True, cache=True)
def edges_by_affinity(bits: Any, kinds: Any, counted: Any, uncounted: Any) -> Any:
    """Edges in descending order of affinity, and in ascending order of edge where it is equal.

    A radix sort: three passes of ten bits, each of which keeps the order of equal digits.

    Args:
        bits: uint32 (3·D·H·W,), the bits of the float32 affinities in [0, 1].
        kinds: uint8 (3·D·H·W,), see ``edge_kinds``.
        counted: kinds that are sorted, joined by |.
        uncounted: kinds that are sorted with them, each edge as -1 - edge; others are left out.

    Returns:
        int32 (number of sorted edges,).
    """
    counts = np.zeros((3, _VALUES), dtype=np.int64)
    wanted = counted | uncounted
    size = 0
    for edge in range(kinds.size):
        size += (kinds[edge] & wanted) != 0
    # The key in the high half, the edge in the low one: what is sorted moves in one piece.
    items = np.empty(size, dtype=np.uint64)
    other = np.empty(size, dtype=np.uint64)
    size = 0
    for edge in range(kinds.size):
        if kinds[edge] & wanted:
            key = np.uint64(_ONE - (bits[edge] & np.uint32(0x7FFFFFFF)))  # -0.0 is 0.0
            name = edge if kinds[edge] & counted else -1 - edge
            items[size] = key << np.uint64(32) | np.uint64(np.uint32(name))
            size += 1
            for digit in range(3):
                counts[digit, (key >> np.uint64(digit * _DIGIT)) & np.uint64(_VALUES - 1)] += 1
    for digit in range(3):
        start = 0
        for value in range(_VALUES):
            start, counts[digit, value] = start + counts[digit, value], start
    for digit in range(2):
        shift = np.uint64(32 + digit * _DIGIT)
        for item in items:
            bucket = (item >> shift) & np.uint64(_VALUES - 1)
            other[counts[digit, bucket]] = item
            counts[digit, bucket] += 1
        items, other = other, items
    edges = np.empty(size, dtype=np.int32)
    for item in items:
        bucket = item >> np.uint64(32 + 2 * _DIGIT)
        edges[counts[2, bucket]] = np.int32(np.uint32(item & np.uint64(0xFFFFFFFF)))
        counts[2, bucket] += 1
    return edges
