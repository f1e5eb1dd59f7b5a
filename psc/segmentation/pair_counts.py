"""Kruskal's algorithm that counts the pairs of voxels every edge joins.

A component of the union-find has a content: nothing, one label, or a table of labels and their
voxel counts. Tables are hash tables in one pool of rows (label, count), 2**k rows each, of which
the first is a header (k, number of labels). A smaller table is emptied into the larger one, and its
rows are used again.
"""

from typing import Any

import numpy as np
from numba import njit

from psc.segmentation.edge_order import SAME

__all__ = ["count_pairs", "join_objects", "singletons"]

_CONTENT, _LABELLED = 0, 1
"""Columns of ``contents``, for roots: 0, a label, or -1 - the row of a table; and how many of the
component's voxels have a label."""
_LABEL, _COUNT = 0, 1
_SMALLEST = 2  # k of a new table: a header, two labels, and the free row that ends every search
_TOP = 0  # free[0] is the first row never used, free[k] the first of the free tables of 2**k rows
_FIRST_ROWS = 1 << 12


@njit(nogil=True, cache=True)
def singletons(labels: Any) -> Any:
    """Components of one voxel each, of flat dense labels.

    Returns:
        parents: int32 (voxels,), a voxel of the same component, or at its root minus its size.
            Apart from the rest: most of the time is spent in following parents, and a short array
            stays in the cache.
        contents: int32 (voxels, 2), at a root what the component holds.
    """
    parents = np.full(labels.size, -1, dtype=np.int32)
    contents = np.empty((labels.size, 2), dtype=np.int32)
    for voxel in range(labels.size):
        contents[voxel, _CONTENT] = labels[voxel]
        contents[voxel, _LABELLED] = labels[voxel] != 0
    return parents, contents


@njit(nogil=True, cache=True)
def join_objects(parents: Any, contents: Any, kinds: Any, steps: Any) -> None:
    """Join all voxels that edges of kind SAME connect.

    Args:
        parents: of ``singletons``; changed.
        contents: of ``singletons``; changed.
        kinds: uint8 (3 · voxels,), see ``edge_kinds``.
        steps: int64 (3,), from a voxel back to its predecessor along z, y and x.
    """
    voxels = parents.size
    for axis in range(3):
        for voxel in range(steps[axis], voxels):
            if kinds[axis * voxels + voxel] == SAME:
                a, b = _root(parents, voxel), _root(parents, voxel - steps[axis])
                if a != b:
                    _link(parents, contents, a, b)


@njit(nogil=True, cache=True)
def count_pairs(
    edges: Any,
    parents: Any,
    contents: Any,
    steps: Any,
    positive: Any,
    negative: Any,
) -> None:
    """Take edges in their order; write to each that joins two components how many pairs it joins.

    Args:
        edges: int32, in the order in which they are taken. One that is given as -1 - edge joins
            like any other, but its pairs are not written.
        parents: what is joined already, see ``singletons``; changed.
        contents: of the same; changed.
        steps: int64 (3,), from a voxel back to its predecessor along z, y and x.
        positive: int64 (3 · voxels,) of 0; gets the pairs of equal labels.
        negative: the same; gets those of different labels.
    """
    rows = np.empty((_FIRST_ROWS, 2), dtype=np.int32)
    free = np.full(32, -1, dtype=np.int32)
    free[_TOP] = 0
    done = 0
    while True:
        # The pool grows out here: arrays that may be replaced inside the hot loop slow it down.
        done = _take_edges(
            edges,
            done,
            parents,
            contents,
            steps,
            positive,
            negative,
            rows,
            free,
        )
        if done == edges.size:
            return
        larger = np.empty((2 * rows.shape[0], 2), dtype=np.int32)
        larger[: rows.shape[0]] = rows
        rows = larger


@njit(nogil=True, cache=True)
def _take_edges(
    edges: Any,
    start: Any,
    parents: Any,
    contents: Any,
    steps: Any,
    positive: Any,
    negative: Any,
    rows: Any,
    free: Any,
) -> Any:
    """As ``count_pairs``; return the first edge not taken because the pool is full."""
    voxels = parents.size
    for i in range(start, edges.size):
        name = np.int64(edges[i])
        edge = max(name, -1 - name)
        axis = np.int64(edge >= voxels) + np.int64(edge >= 2 * voxels)
        voxel = edge - axis * voxels
        a, b = _root(parents, voxel), _root(parents, voxel - steps[axis])
        if a == b:
            continue
        content, other = contents[a, _CONTENT], contents[b, _CONTENT]
        pairs = np.int64(contents[a, _LABELLED]) * np.int64(contents[b, _LABELLED])
        if content == other and content >= 0:
            same = pairs
        elif pairs == 0:
            same = np.int64(0)
            content = content if contents[a, _LABELLED] else other
        else:
            # One table may have to double, or a new one is made.
            largest = np.int64(_SMALLEST)
            if content < 0:
                largest = max(largest, np.int64(rows[-1 - content, 0]) + 1)
            if other < 0:
                largest = max(largest, np.int64(rows[-1 - other, 0]) + 1)
            if free[_TOP] + (np.int64(1) << largest) > rows.shape[0]:
                return i
            same, content = _merge_contents(
                rows, free, content, contents[a, _LABELLED], other, contents[b, _LABELLED]
            )
        if name >= 0 and same:
            positive[edge] = same
        if name >= 0 and pairs > same:
            negative[edge] = pairs - same
        contents[_link(parents, contents, a, b), _CONTENT] = content
    return edges.size


@njit(nogil=True, cache=True)
def _root(parents: Any, voxel: Any) -> Any:
    """The root of a voxel's component; halves the path to it."""
    while True:
        parent = parents[voxel]
        if parent < 0:
            return voxel
        grandparent = parents[parent]
        if grandparent < 0:
            return np.int64(parent)
        parents[voxel] = grandparent
        voxel = np.int64(grandparent)


@njit(nogil=True, cache=True)
def _link(parents: Any, contents: Any, a: Any, b: Any) -> Any:
    """Hang the root with fewer voxels under the other; return the root of both."""
    if parents[a] > parents[b]:
        a, b = b, a
    parents[a] += parents[b]
    parents[b] = a
    contents[a, _LABELLED] += contents[b, _LABELLED]
    return a


@njit(nogil=True, cache=True)
def _merge_contents(rows: Any, free: Any, a: Any, a_count: Any, b: Any, b_count: Any) -> Any:
    """Number of pairs of equal labels in two contents that differ, and the content of both."""
    same = np.int64(0)
    if a >= 0 and b >= 0:
        table = _new_table(rows, free, _SMALLEST)
        _add(rows, table, a, a_count)
        _add(rows, table, b, b_count)
        return same, np.int32(-1 - table)
    if a >= 0 or (b < 0 and rows[-1 - a, 1] < rows[-1 - b, 1]):
        a, b, b_count = b, a, a_count
    table = np.int64(-1 - a)
    if b >= 0:
        table = _with_room(rows, free, table)
        same = _add(rows, table, b, b_count) * np.int64(b_count)
        return same, np.int32(-1 - table)
    small = np.int64(-1 - b)
    for row in range(small + 1, small + (np.int64(1) << rows[small, 0])):
        count = rows[row, _COUNT]
        if count:
            table = _with_room(rows, free, table)
            same += _add(rows, table, rows[row, _LABEL], count) * np.int64(count)
    _release(rows, free, small)
    return same, np.int32(-1 - table)


@njit(nogil=True, cache=True)
def _add(rows: Any, table: Any, label: Any, count: Any) -> Any:
    """Add voxels of a label to a table that has room; return how many it had of them."""
    k = rows[table, 0]
    last = (np.int64(1) << k) - 1
    # Multiplied by 2**64 over the golden ratio, neighbouring labels get distant rows.
    slot: Any = np.int64((np.uint64(label) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - k))
    slot = max(slot, 1)  # row 0 is the header
    while rows[table + slot, _COUNT] and rows[table + slot, _LABEL] != label:
        slot = slot + 1 if slot < last else 1
    before = np.int64(rows[table + slot, _COUNT])
    if before == 0:
        rows[table + slot, _LABEL] = label
        rows[table, 1] += 1
    rows[table + slot, _COUNT] += count
    return before


@njit(nogil=True, cache=True)
def _new_table(rows: Any, free: Any, k: Any) -> Any:
    """An empty table of 2**k rows; the pool has room for it."""
    size = np.int64(1) << k
    table = np.int64(free[k])
    if table >= 0:
        free[k] = rows[table, 0]
    else:
        table = np.int64(free[_TOP])
        free[_TOP] += size
    rows[table, 0], rows[table, 1] = k, 0
    for row in range(table + 1, table + size):
        rows[row, _COUNT] = 0
    return table


@njit(nogil=True, cache=True)
def _release(rows: Any, free: Any, table: Any) -> None:
    k = rows[table, 0]
    rows[table, 0] = free[k]
    free[k] = table


@njit(nogil=True, cache=True)
def _with_room(rows: Any, free: Any, table: Any) -> Any:
    """The table, or one twice as large with the same labels where it is three quarters full."""
    k = rows[table, 0]
    if rows[table, 1] < (3 << k) // 4 - 1:
        return table
    larger = _new_table(rows, free, k + 1)
    for row in range(table + 1, table + (np.int64(1) << k)):
        if rows[row, _COUNT]:
            _add(rows, larger, rows[row, _LABEL], rows[row, _COUNT])
    _release(rows, free, table)
    return larger
