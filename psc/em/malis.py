"""MALIS: how many pairs of voxels depend on each affinity (Turaga et al. 2009, Funke et al. 2018).

Two voxels end up in one segment as soon as the threshold falls below their maximin affinity: the
lowest affinity on the best path between them. That lowest edge is the one that joins them when a
maximum spanning tree is built (Kruskal), so one pass over the sorted edges counts all pairs.

Where affinities are equal, the edge that comes first in the flattened (3, D, H, W) array is taken
first; so the counts are a function of the input and of nothing else. A voxel of label 0 is in no
pair, but paths lead through it.

Edge e = a · D·H·W + v joins voxel v to its predecessor along axis a (z, y, x): the place of its
affinity in the flattened array. Voxels of an axis's first plane have no predecessor, so no edge.

A component of the union-find has a content: nothing, one label, or a table of labels and their
voxel counts. Tables are hash tables in one pool of rows (label, count), 2**k rows each, of which
the first is a header (k, number of labels). A smaller table is emptied into the larger one, and
its rows are used again.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from psc.em.affinities import checked_affinities
from psc.em.labels import relabel_consecutive
from psc.errors import DataError

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
    """SAME, DIFFERENT, UNKNOWN or 0 (no edge) for every edge, uint8 (3, D, H, W).

    ``mask``: bool of that shape, False where nothing is known; or with no element: an edge is then
    known where neither voxel has label 0.
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

    ``bits`` are those of the float32 affinities in [0, 1], flat; ``counted`` kinds are sorted, with
    them the ``uncounted``, each edge of these as -1 - edge; others are left out.
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


_CONTENT, _LABELLED = 0, 1
"""Columns of ``contents``, for roots: 0, a label, or -1 - the row of a table; and how many of the
component's voxels have a label."""
_LABEL, _COUNT = 0, 1
_SMALLEST = 2  # k of a new table: a header, two labels, and the free row that ends every search
_TOP = 0  # free[0] is the first row never used, free[k] the first of the free tables of 2**k rows
_FIRST_ROWS = 1 << 12


@njit(nogil=True, cache=True)
def singletons(labels: Any) -> Any:
    """Components of one voxel each, of flat dense labels: parents and contents.

    ``parents``, int32 (voxels,): a voxel of the same component, or at its root minus its size.
    Apart from ``contents``, int32 (voxels, 2), which says at a root what the component holds: most
    of the time is spent in following parents, and a short array stays in the cache.
    """
    parents = np.full(labels.size, -1, dtype=np.int32)
    contents = np.empty((labels.size, 2), dtype=np.int32)
    for voxel in range(labels.size):
        contents[voxel, _CONTENT] = labels[voxel]
        contents[voxel, _LABELLED] = labels[voxel] != 0
    return parents, contents


@njit(nogil=True, cache=True)
def join_objects(parents: Any, contents: Any, kinds: Any, steps: Any) -> None:
    """Join all voxels that edges of kind SAME connect; parents and contents are changed.

    ``steps``, int64 (3,): from a voxel back to its predecessor along z, y and x.
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
    edges: Any, parents: Any, contents: Any, steps: Any, positive: Any, negative: Any
) -> None:
    """Take edges in their order; write to each that joins two components how many pairs it joins.

    An edge that is given as -1 - edge joins like any other, but its pairs are not written. Those of
    equal labels go to ``positive``, of different ones to ``negative``, int64 (3 · voxels,) of 0.
    """
    rows = np.empty((_FIRST_ROWS, 2), dtype=np.int32)
    free = np.full(32, -1, dtype=np.int32)
    free[_TOP] = 0
    done = 0
    while True:
        # The pool grows out here: arrays that may be replaced inside the hot loop slow it down.
        done = _take_edges(edges, done, parents, contents, steps, positive, negative, rows, free)
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


_Labels = npt.NDArray[np.integer[Any]]
_Mask = npt.NDArray[np.bool_]
_Counts = npt.NDArray[np.int64]


class PairCounts(NamedTuple):
    """Pairs of voxels with the same and with different labels by the edge that joins them.

    Both int64 (3, D, H, W).
    """

    positive: _Counts
    negative: _Counts


def malis_pairs(affinities: npt.NDArray[Any], labels: _Labels) -> PairCounts:
    """Count the pairs of voxels whose maximin edge each edge is.

    Affinities (3, D, H, W) are compared as float32. Together counts are all pairs of labelled
    voxels, since a grid is connected.
    """
    return VoxelGraph.of(affinities, labels).all_counts()


def constrained_counts(
    affinities: npt.NDArray[Any], labels: _Labels, mask: _Mask | None = None
) -> PairCounts:
    """Count pairs in two passes, each of which knows the truth about the other one's edges.

    The target of an edge is 1 where both voxels have the same label, not 0, else 0. The positive
    pass runs on min(affinity, target): no path leaves an object, so positive pairs fall on edges
    inside. The negative pass runs on max(affinity, target): objects are whole, so negative pairs
    fall on edges between them (Funke et al. 2018).

    An edge without known target keeps its affinity in both passes, and gets no pairs. Nor does an
    edge that a pass has set to its target: where pieces of an object meet only outside the crop,
    no affinity in it can join them. The authors' code for TensorFlow (TuragaLab/malis) drops these
    pairs too; in their earlier layer for Caffe they raised affinities of boundaries. Among equals,
    edges set to 1 come first and edges set to 0 last; the rest is as in ``malis_pairs``.

    Labels are ids of whole objects, not of their pieces in a crop. The mask, bool (3, D, H, W), is
    False where the target is unknown; None: where either voxel has label 0, which else is boundary.
    """
    graph = VoxelGraph.of(affinities, labels, mask)
    return PairCounts(graph.positive_counts(), graph.negative_counts())


def pair_weights(counts: _Counts, pairs: int | None = None) -> npt.NDArray[np.float32]:
    """Counts as fractions, float32, of a number of pairs; None: of their sum. 0 without pairs."""
    total = int(counts.sum()) if pairs is None else pairs
    weights = np.empty(counts.shape, dtype=np.float32)
    np.multiply(counts, 1 / max(total, 1), out=weights, dtype=np.float64, casting="unsafe")
    return weights


@dataclass(frozen=True, eq=False)
class VoxelGraph:
    """Affinities and labels, ready for the passes, which may run in two threads at once."""

    bits: npt.NDArray[np.uint32]  # (3·D·H·W,), of the float32 affinities
    kinds: npt.NDArray[np.uint8]  # (3·D·H·W,), what the labels say about each edge
    labels: npt.NDArray[np.int32]  # (D·H·W,), dense, 0 in no pair
    shape: tuple[int, int, int]  # (D, H, W)

    @staticmethod
    def of(
        affinities: npt.NDArray[Any], labels: _Labels, mask: _Mask | None = None
    ) -> "VoxelGraph":
        """Check the arguments of ``constrained_counts`` and bring them into form."""
        affinities = checked_affinities(affinities)
        dense, _ = relabel_consecutive(labels)
        if dense.shape != affinities.shape[1:]:
            raise DataError(
                f"labels have shape {dense.shape}, affinities {affinities.shape}; labels must have"
                " the last three sizes of the affinities"
            )
        if dense.size > LARGEST_VOLUME:
            raise DataError(
                f"{dense.size} voxels, of which {LARGEST_VOLUME} can be numbered; give a crop"
            )
        if mask is None:
            mask = np.empty((3, 0, 0, 0), dtype=np.bool_)
        elif mask.dtype != np.bool_ or mask.shape != affinities.shape:
            raise DataError(
                f"the mask must be bool of shape {affinities.shape}, found {mask.dtype} of shape"
                f" {mask.shape}"
            )
        kinds = edge_kinds(dense, np.ascontiguousarray(mask))
        depth, height, width = dense.shape
        flat = affinities.view(np.uint32).reshape(-1)
        return VoxelGraph(flat, kinds.reshape(-1), dense.reshape(-1), (depth, height, width))

    def all_counts(self) -> PairCounts:
        """``malis_pairs``."""
        edges = edges_by_affinity(self.bits, self.kinds, ALL_EDGES, 0)
        return self._count(edges, *singletons(self.labels))

    def positive_counts(self) -> _Counts:
        """The positive pass of ``constrained_counts``.

        Edges of target 0 come last in it and get no pairs: they are left out.
        """
        edges = edges_by_affinity(self.bits, self.kinds, SAME, UNKNOWN)
        return self._count(edges, *singletons(self.labels)).positive

    def negative_counts(self) -> _Counts:
        """The negative pass of ``constrained_counts``.

        Edges of target 1 come first in it and get no pairs: they join objects in any order.
        """
        parents, contents = singletons(self.labels)
        join_objects(parents, contents, self.kinds, self._steps)
        edges = edges_by_affinity(self.bits, self.kinds, DIFFERENT, UNKNOWN)
        return self._count(edges, parents, contents).negative

    def labelled_pairs(self) -> tuple[int, int]:
        """Numbers of pairs of labelled voxels with the same and with different labels."""
        sizes = [int(size) for size in np.bincount(self.labels)[1:]]
        same = sum(size * (size - 1) // 2 for size in sizes)
        return same, sum(sizes) * (sum(sizes) - 1) // 2 - same

    @property
    def _steps(self) -> npt.NDArray[np.int64]:
        _, height, width = self.shape
        return np.array([height * width, width, 1], dtype=np.int64)

    def _count(self, edges: Any, parents: Any, contents: Any) -> PairCounts:
        shape = (3, *self.shape)
        counts = PairCounts(np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64))
        flat = (array.reshape(-1) for array in counts)
        count_pairs(edges, parents, contents, self._steps, *flat)
        return counts
