"""From the faces between fragments to segments: the region graph of a block, and of a whole volume.

A block owns the faces between its voxels and their predecessors, those in the block before
included: where affinities are stored, and every face of the volume once. For each pair of touching
fragments all their affinities are kept, as a histogram over the 256 values that stored ones can
have; from it follows every quantile, the mean and the maximum. So the graphs of all blocks add up
to that of the volume.

Regions are merged in one process, always the two that belong together most. The method is waterz's
(Funke et al., TPAMI 2019), with its scores 1 - q, its queue of 256 bins in which the first in is
the first out, its scores that are renewed only when an edge is due, and its rules for ties; on the
graph of a whole volume quantile scores therefore give its very partition. (The mean is exact here
and rounded there at every step: a few pairs may differ.) What differs is that edges are found in a
hash table and the smaller of two regions moves, so that time is nearly linear in edges however
large a body grows. Memory is proportional to edges: 45 bytes for each, 9 more for each value in its
histogram (none for the mean), and 16 for each fragment; nothing grows after the graph is assembled.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from psc.em.labels import relabel_consecutive
from psc.em.settings import SegmentationConfig
from psc.errors import ConfigError, DataError

_UInt8 = npt.NDArray[np.uint8]
_UInt32 = npt.NDArray[np.uint32]
_UInt64 = npt.NDArray[np.uint64]
_Int32 = npt.NDArray[np.int32]
_Int64 = npt.NDArray[np.int64]
_NONE = -1
_FIBONACCI = np.uint64(11400714819323198485)  # 2**64 / golden ratio: spreads neighbouring pairs
_BINS = 256
_MEAN = -1


# Of one block -------------------------------------------------------------------------------------


class BlockGraph(NamedTuple):
    """Pairs of touching fragments with the histograms of their affinities.

    The histogram of pair e is ``values[offsets[e]:offsets[e + 1]]`` with as many ``counts``.
    """

    pairs: npt.NDArray[Any]  # (E, 2) uint64 ids, the smaller first, or int64 positions (Numbering)
    offsets: _Int64  # (E + 1)
    values: _UInt8  # ascending within a pair
    counts: _UInt32  # faces with that affinity; positive


def region_graph(
    affinities: _UInt8, fragments: _UInt64, start: tuple[int, int, int] = (0, 0, 0)
) -> BlockGraph:
    """Touching fragments, from the faces between voxels and their predecessors.

    Affinities are (3, D, H, W), fragments (D, H, W), 0 none. ``start``: the first voxel whose faces
    count; earlier ones are predecessors only.
    """
    dense, originals = relabel_consecutive(fragments)
    order = np.argsort(originals)  # 0 stays first
    rank = np.empty(order.size, dtype=np.int64)
    rank[order] = np.arange(order.size)
    entries, counts = np.unique(_faces(rank[dense], affinities, start), return_counts=True)
    pair_keys, first = np.unique(entries >> np.uint64(8), return_index=True)
    low, high = np.divmod(pair_keys, np.uint64(originals.size))
    ascending = originals[order]
    return BlockGraph(
        pairs=np.stack([ascending[low], ascending[high]], axis=1),
        offsets=np.append(first, entries.size).astype(np.int64),
        values=(entries & np.uint64(255)).astype(np.uint8),
        counts=counts.astype(np.uint32),
    )


def _faces(ranks: _Int64, affinities: _UInt8, start: tuple[int, int, int]) -> _UInt64:
    """(low rank, high rank, affinity) of each face between two fragments, as one number."""
    fragments, keys = ranks.max() + 1, []
    for axis in range(3):
        here = [slice(first, None) for first in start]
        here[axis] = slice(max(start[axis], 1), None)
        before = [*here[:axis], slice(here[axis].start - 1, -1), *here[axis + 1 :]]
        ours, theirs = ranks[tuple(here)], ranks[tuple(before)]
        touching = (ours != theirs) & (ours != 0) & (theirs != 0)
        ours, theirs = ours[touching], theirs[touching]
        pairs = np.minimum(ours, theirs) * fragments + np.maximum(ours, theirs)
        keys.append((pairs << 8) | affinities[axis][tuple(here)][touching])
    return np.concatenate(keys).astype(np.uint64)


def joined_pairs(first_view: _UInt64, second_view: _UInt64) -> _UInt64:
    """Which fragments of two neighbouring blocks are pieces of one, uint64 (pairs, 2).

    Both blocks computed fragments on either side of their common face, since each has context
    beyond it. Where they agree about a fragment they found the one that the whole volume would
    have: two fragments are joined if on the two planes next to the face they share more than half
    of the voxels that either has (intersection over union above 1/2: each has one partner at most).
    The views are the ids that the blocks before and after the face gave to these voxels, 0 = none.
    """
    first_ids, first = np.unique(first_view, return_inverse=True)
    second_ids, second = np.unique(second_view, return_inverse=True)
    code = first.reshape(-1).astype(np.int64) * second_ids.size + second.reshape(-1)
    pairs, common = np.unique(code, return_counts=True)
    i, j = np.divmod(pairs, second_ids.size)
    either = np.bincount(first.reshape(-1))[i] + np.bincount(second.reshape(-1))[j] - common
    alike = (2 * common > either) & (first_ids[i] != 0) & (second_ids[j] != 0)
    return np.stack([first_ids[i[alike]], second_ids[j[alike]]], axis=1).reshape(-1, 2)


# Of the whole volume ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Numbering:
    """How ids of fragments become positions 0..N-1 in tables: without the gaps between blocks' ids.

    ``starts`` int64 (blocks + 1): fragments of block b are starts[b], …, starts[b + 1] - 1.
    """

    voxels_per_block: int  # of psc.blockwise.grid.Grid
    starts: _Int64

    @classmethod
    def of_counts(cls, fragments: Mapping[int, int], voxels_per_block: int) -> "Numbering":
        """From the number of fragments of each block."""
        counts = [fragments[index] for index in range(len(fragments))]
        return cls(voxels_per_block, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    @property
    def fragments(self) -> int:
        """N."""
        return int(self.starts[-1])

    def positions(self, ids: _UInt64) -> _Int64:
        """Positions of ids, none of which is 0."""
        block, local = np.divmod(ids - np.uint64(1), np.uint64(self.voxels_per_block))
        positions: _Int64 = self.starts[block.astype(np.intp)]
        return positions + local.astype(np.int64)


def joined_roots(fragments: int, joined: Iterable[_Int64]) -> _Int32:
    """For each fragment 0..N-1 the smallest one that it is joined to, by way of others too.

    ``joined``: pairs int64 (…, 2) of fragments.
    """
    pairs = np.concatenate([np.empty((0, 2), np.int64), *joined])
    links = coo_array((np.ones(len(pairs), np.bool_), pairs.T), shape=(fragments, fragments))
    components, component = connected_components(links, directed=False)
    smallest = np.empty(components, dtype=np.int32)
    smallest[component[::-1]] = np.arange(fragments, dtype=np.int32)[::-1]  # the last one stays
    return smallest[component]


class RegionGraph(NamedTuple):
    """Edges between regions 0..N-1; half-edges 2e and 2e + 1 are the two ends of edge e."""

    ends: _Int32  # (2 E) region at each half-edge
    next_half: _Int32  # (2 E) the next half-edge of the same region; ends with -1
    first_half: _Int32  # (N) a region's first half-edge
    degree: _Int32  # (N) a region's live edges
    heads: _Int32  # (E) first entry of an edge's histogram
    totals: _Int64  # (E) sum of an edge's affinities, 0..255
    faces: _Int64  # (E) number of an edge's affinities
    table: _Int32  # hash table of edges by their two regions; -1 = free
    entry_next: _Int32  # entries of one histogram, ascending by value; ends with -1
    entry_value: _UInt8  # an affinity
    entry_count: _UInt32  # how often it occurs
    sizes: _Int64  # (2) numbers of edges and entries in use


def assemble(
    roots: _Int32, parts: Iterable[BlockGraph], *, edges: int, entries: int, histograms: bool
) -> RegionGraph:
    """One graph out of those of the blocks, in which a joined fragment is one region.

    Parts are between positions of fragments, with no more ``edges`` and histogram ``entries`` than
    said; without ``histograms`` only sums and counts are kept, enough for the mean.
    """
    if edges > 2**30 or entries >= 2**31 or roots.size >= 2**31:
        raise DataError(
            f"a region graph of {roots.size} fragments, {edges} edges and {entries} histogram"
            " entries is too large for one process; make larger fragments"
            " (minimum_seed_distance), or segment parts of the volume"
        )
    slots = 1 << max(3, (2 * edges - 1).bit_length())
    room = entries if histograms else 0
    graph = RegionGraph(
        ends=np.empty(2 * edges, np.int32),
        next_half=np.empty(2 * edges, np.int32),
        first_half=np.full(roots.size, _NONE, np.int32),
        degree=np.zeros(roots.size, np.int32),
        heads=np.full(edges, _NONE, np.int32),
        totals=np.zeros(edges, np.int64),
        faces=np.zeros(edges, np.int64),
        table=np.full(slots, _NONE, np.int32),
        entry_next=np.empty(room, np.int32),
        entry_value=np.empty(room, np.uint8),
        entry_count=np.empty(room, np.uint32),
        sizes=np.zeros(2, np.int64),
    )
    for part in parts:
        _add_part(graph, roots, part.pairs, part.offsets, part.values, part.counts, histograms)
    return graph


@njit(nogil=True, cache=True)
def _find_slot(graph: RegionGraph, one: int, other: int) -> int:
    """Where in the table the edge between two regions is, or would be."""
    low, high = min(one, other), max(one, other)
    mask = graph.table.size - 1
    key = (np.uint64(low) << np.uint64(32)) | np.uint64(high)
    slot = np.int64((key * _FIBONACCI) >> np.uint64(33)) & mask
    while graph.table[slot] != _NONE:
        edge = graph.table[slot]
        a, b = graph.ends[2 * edge], graph.ends[2 * edge + 1]
        if min(a, b) == low and max(a, b) == high:
            break
        slot = (slot + 1) & mask
    return int(slot)


@njit(nogil=True, cache=True)
def _remove_from_table(graph: RegionGraph, edge: int) -> None:
    """Take an edge out of the table; later ones move up, so that none is lost behind the gap."""
    mask = graph.table.size - 1
    gap = _find_slot(graph, graph.ends[2 * edge], graph.ends[2 * edge + 1])
    slot = gap
    while True:
        graph.table[gap] = _NONE
        while True:
            slot = (slot + 1) & mask
            other = graph.table[slot]
            if other == _NONE:
                return
            low = min(graph.ends[2 * other], graph.ends[2 * other + 1])
            high = max(graph.ends[2 * other], graph.ends[2 * other + 1])
            key = (np.uint64(low) << np.uint64(32)) | np.uint64(high)
            home = np.int64((key * _FIBONACCI) >> np.uint64(33)) & mask
            # It may fill the gap unless its home lies after the gap (around the end of the table).
            if ((slot - home) & mask) >= ((slot - gap) & mask):
                break
        graph.table[gap] = other
        gap = slot


@njit(nogil=True, cache=True)
def _add_histogram(graph: RegionGraph, source: int, target: int) -> None:
    """Add one edge's affinities to another's; the source's entries are used up."""
    graph.totals[target] += graph.totals[source]
    graph.faces[target] += graph.faces[source]
    one, two = graph.heads[target], graph.heads[source]
    graph.heads[source] = _NONE
    last = _NONE
    while one != _NONE or two != _NONE:
        if two == _NONE or (one != _NONE and graph.entry_value[one] <= graph.entry_value[two]):
            entry = one
            one = graph.entry_next[one]
        else:
            entry = two
            two = graph.entry_next[two]
        if last != _NONE and graph.entry_value[last] == graph.entry_value[entry]:
            graph.entry_count[last] += graph.entry_count[entry]
            graph.entry_next[last] = _NONE
            continue
        if last == _NONE:
            graph.heads[target] = entry
        else:
            graph.entry_next[last] = entry
        last = entry
        graph.entry_next[last] = _NONE


@njit(nogil=True, cache=True)
def _link_half(graph: RegionGraph, half: int, region: int) -> None:
    """Make a half-edge one of a region's."""
    graph.ends[half] = region
    graph.next_half[half] = graph.first_half[region]
    graph.first_half[region] = half
    graph.degree[region] += 1


@njit(nogil=True, cache=True)
def _add_part(
    graph: RegionGraph,
    roots: _Int32,
    pairs: _Int64,
    offsets: _Int64,
    values: _UInt8,
    counts: _UInt32,
    histograms: bool,
) -> None:
    for i in range(len(pairs)):
        one, other = roots[pairs[i, 0]], roots[pairs[i, 1]]
        if one == other:
            continue
        # The new edge is made at the end, and taken back if there is one already.
        edge = graph.sizes[0]
        graph.heads[edge] = _NONE
        graph.totals[edge], graph.faces[edge] = 0, 0
        last = _NONE
        for j in range(offsets[i], offsets[i + 1]):
            graph.totals[edge] += np.int64(values[j]) * np.int64(counts[j])
            graph.faces[edge] += counts[j]
            if histograms:
                entry = graph.sizes[1]
                graph.sizes[1] += 1
                graph.entry_value[entry], graph.entry_count[entry] = values[j], counts[j]
                graph.entry_next[entry] = _NONE
                if last == _NONE:
                    graph.heads[edge] = entry
                else:
                    graph.entry_next[last] = entry
                last = entry
        slot = _find_slot(graph, one, other)
        if graph.table[slot] != _NONE:
            _add_histogram(graph, edge, graph.table[slot])
            continue
        graph.sizes[0] += 1
        graph.table[slot] = edge
        _link_half(graph, 2 * edge, one)
        _link_half(graph, 2 * edge + 1, other)


def needs_histograms(scoring: str) -> bool:
    """Whether a scoring function looks at more than sums and counts."""
    return scoring != "mean"


def merge_regions(
    graph: RegionGraph, roots: _Int32, thresholds: Sequence[float], scoring: str
) -> Iterator[tuple[float, _UInt64]]:
    """Merge up to each threshold, as ``psc.em.watershed.agglomerate`` does; uses up the graph.

    Yields:
        (threshold, segment of every fragment, uint64 (N), ids 1..K in order of their first
        fragment), in ascending order of threshold.
    """
    ascending = SegmentationConfig(scoring=scoring, thresholds=list(thresholds)).ascending
    quantile, highest_only = _meaning(scoring)
    edges = int(graph.sizes[0])
    if highest_only:
        _keep_highest(graph, edges)
    queue = _Queue(
        scores=np.empty(edges, np.float32),
        following=np.full(edges, _NONE, np.int32),
        first=np.full(_BINS, _NONE, np.int32),
        last=np.full(_BINS, _NONE, np.int32),
        stale=np.zeros(edges, np.bool_),
        dead=np.zeros(edges, np.bool_),
    )
    parent = np.arange(roots.size, dtype=np.int32)
    names = np.arange(roots.size, dtype=np.int32)
    _push_all(graph, queue, quantile)
    for threshold in ascending:
        _merge_until(graph, queue, np.float32(threshold), quantile, parent, names)
        yield threshold, _segments(roots, parent)


def _meaning(scoring: str) -> tuple[int, bool]:
    """Percentile (-1 = mean), and whether only the highest affinity of each pair counts."""
    if scoring == "mean":
        return _MEAN, False
    if found := re.fullmatch(r"aff(\d+)_his256|hist_quant_(\d+)", scoring):
        return int(found[1] or found[2]), found[1] is not None
    raise ConfigError(f"scoring={scoring} is not available for volumes in blocks")


class _Queue(NamedTuple):
    """Edges in bins of their scores, the first in first out."""

    scores: npt.NDArray[np.float32]
    following: _Int32  # the next edge of the same bin
    first: _Int32  # of each bin
    last: _Int32
    stale: npt.NDArray[np.bool_]  # the score is to be renewed
    dead: npt.NDArray[np.bool_]  # the edge is gone


@njit(nogil=True, cache=True)
def _keep_highest(graph: RegionGraph, edges: int) -> None:
    for edge in range(edges):
        entry = graph.heads[edge]
        while graph.entry_next[entry] != _NONE:
            entry = graph.entry_next[entry]
        graph.entry_count[entry] = 1
        graph.heads[edge] = entry
        graph.faces[edge] = 1


@njit(nogil=True, cache=True)
def _score(graph: RegionGraph, edge: int, quantile: int) -> float:
    """1 - q of an edge's affinities."""
    if quantile == _MEAN:
        return float(1.0 - graph.totals[edge] / (255.0 * graph.faces[edge]))
    pivot = quantile * graph.faces[edge] // 100 + 1
    seen = np.int64(0)
    entry = graph.heads[edge]
    while True:
        seen += graph.entry_count[entry]
        if seen >= pivot or graph.entry_next[entry] == _NONE:
            break
        entry = graph.entry_next[entry]
    return float(1.0 - (graph.entry_value[entry] + 0.5) / _BINS)


@njit(nogil=True, cache=True)
def _push(graph: RegionGraph, queue: _Queue, edge: int, quantile: int) -> int:
    """Score an edge and put it at the end of its bin, which is returned."""
    queue.scores[edge] = _score(graph, edge, quantile)
    place = min(max(int(queue.scores[edge] * _BINS), 0), _BINS - 1)
    queue.following[edge] = _NONE
    if queue.first[place] == _NONE:
        queue.first[place] = edge
    else:
        queue.following[queue.last[place]] = edge
    queue.last[place] = edge
    return place


@njit(nogil=True, cache=True)
def _push_all(graph: RegionGraph, queue: _Queue, quantile: int) -> None:
    for edge in range(queue.scores.size):
        _push(graph, queue, edge, quantile)


@njit(nogil=True, cache=True)
def _merge_until(
    graph: RegionGraph,
    queue: _Queue,
    threshold: np.float32,
    quantile: int,
    parent: _Int32,
    names: _Int32,
) -> None:
    place = 0
    while place < _BINS:
        edge = queue.first[place]
        if edge == _NONE:
            place += 1
            continue
        if queue.scores[edge] >= threshold:
            return
        queue.first[place] = queue.following[edge]
        if queue.dead[edge]:
            continue
        if queue.stale[edge]:
            queue.stale[edge] = False
            place = min(place, _push(graph, queue, edge, quantile))
            continue
        _merge(graph, queue, edge, parent, names)


@njit(nogil=True, cache=True)
def _merge(graph: RegionGraph, queue: _Queue, merged: int, parent: _Int32, names: _Int32) -> None:
    """Merge the two regions of an edge: the one with fewer edges goes into the other."""
    stays, goes = graph.ends[2 * merged], graph.ends[2 * merged + 1]
    if graph.degree[stays] < graph.degree[goes]:
        stays, goes = goes, stays
    # To waterz it is the region with the larger id that goes; that decides about ties below.
    gives = names[goes] > names[stays]
    half = graph.first_half[goes]
    while half != _NONE:
        following = graph.next_half[half]
        edge = half >> 1
        if not queue.dead[edge]:
            neighbour = graph.ends[half ^ 1]
            _remove_from_table(graph, edge)
            if neighbour == stays:
                queue.dead[edge] = True
                graph.degree[stays] -= 1
            else:
                slot = _find_slot(graph, stays, neighbour)
                other = graph.table[slot]
                if other == _NONE:
                    _link_half(graph, half, stays)
                    graph.table[slot] = edge
                else:
                    theirs, ours = (edge, other) if gives else (other, edge)
                    kept, lost = (
                        (ours, theirs)
                        if queue.scores[theirs] > queue.scores[ours]
                        else (theirs, ours)
                    )
                    _add_histogram(graph, lost, kept)
                    queue.stale[kept], queue.dead[lost] = True, True
                    graph.degree[neighbour] -= 1
                    if kept == edge:
                        graph.degree[stays] -= 1  # link_half counts the kept one anew
                        _link_half(graph, half, stays)
                        graph.table[slot] = edge
        half = following
    parent[goes] = stays
    names[stays] = min(names[stays], names[goes])


@njit(nogil=True, cache=True)
def _segments(roots: _Int32, parent: _Int32) -> _UInt64:
    """Ids 1..K of all fragments."""
    ids = np.zeros(parent.size, dtype=np.uint64)
    segments = np.empty(parent.size, dtype=np.uint64)
    count = np.uint64(0)
    for i in range(parent.size):
        node = roots[i]
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        if ids[node] == 0:
            count += np.uint64(1)
            ids[node] = count
        segments[i] = ids[node]
    return segments
