"""The region graph of a whole volume, in flat arrays that shrink as regions are merged.

Memory is proportional to edges: 45 bytes for each, 9 more for each value in its histogram (none for
the mean), and 16 for each fragment; nothing grows after the graph is assembled.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from psc.em.settings import SegmentationOptions
from psc.errors import ConfigError, DataError

_Int32 = npt.NDArray[np.int32]
_Int64 = npt.NDArray[np.int64]
_NONE = -1
_FIBONACCI = np.uint64(11400714819323198485)  # 2**64 / golden ratio: spreads neighbouring pairs


class RegionGraph(NamedTuple):
    """Edges between regions 0..N-1; half-edges 2e and 2e + 1 are the two ends of edge e.

    Attributes:
        ends: region at each half-edge, int32 (2 E).
        next_half: the next half-edge of the same region, int32 (2 E); ends with -1.
        first_half: a region's first half-edge, int32 (N).
        degree: a region's live edges, int32 (N).
        heads: first entry of an edge's histogram, int32 (E).
        totals: sum of an edge's affinities (0..255), int64 (E).
        faces: number of an edge's affinities, int64 (E).
        table: hash table of edges by their two regions, int32; -1 = free.
        entry_next: entries of one histogram, ascending by value, int32; ends with -1.
        entry_value: an affinity, uint8.
        entry_count: how often it occurs, uint32.
        sizes: numbers of edges and entries in use, int64 (2).
    """

    ends: _Int32
    next_half: _Int32
    first_half: _Int32
    degree: _Int32
    heads: _Int32
    totals: _Int64
    faces: _Int64
    table: _Int32
    entry_next: _Int32
    entry_value: npt.NDArray[np.uint8]
    entry_count: npt.NDArray[np.uint32]
    sizes: _Int64


@dataclass(frozen=True, eq=False)
class GraphPart:
    """Edges of one block, between fragments 0..N-1.

    Attributes:
        pairs: int64 (E, 2).
        offsets: see ``psc.blockwise.stages.BlockGraph``, as all that follow.
        values: likewise.
        counts: likewise.
    """

    pairs: _Int64
    offsets: _Int64
    values: npt.NDArray[np.uint8]
    counts: npt.NDArray[np.uint32]


def assemble(
    roots: _Int32, parts: Iterable[GraphPart], *, edges: int, entries: int, histograms: bool
) -> RegionGraph:
    """One graph out of those of the blocks.

    Args:
        roots: int32 (N), the fragment that each fragment was joined to (``joined_roots``).
        parts: of all blocks.
        edges: as many as all parts have, or more.
        entries: as many histogram entries as all parts have, or more.
        histograms: False = keep only sums and counts, enough for the mean.

    Returns:
        The graph; edges within a joined fragment are gone, and parallel ones are one.

    Raises:
        DataError: the graph has more than 2**30 edges or 2**31 entries.
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


def joined_roots(fragments: int, joined: Iterator[_Int64]) -> _Int32:
    """For each fragment the smallest one that it is joined to, by way of others too.

    Args:
        fragments: N.
        joined: pairs int64 (…, 2) of fragments 0..N-1.
    """
    parent = np.arange(fragments, dtype=np.int32)
    for pairs in joined:
        _join(parent, pairs)
    _flatten(parent)
    return parent


@njit(nogil=True, cache=True)
def find_slot(graph: RegionGraph, one: int, other: int) -> int:
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
def remove_from_table(graph: RegionGraph, edge: int) -> None:
    """Take an edge out of the table; later ones move up, so that none is lost behind the gap."""
    mask = graph.table.size - 1
    gap = find_slot(graph, graph.ends[2 * edge], graph.ends[2 * edge + 1])
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
def add_histogram(graph: RegionGraph, source: int, target: int) -> None:
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
def link_half(graph: RegionGraph, half: int, region: int) -> None:
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
    values: npt.NDArray[np.uint8],
    counts: npt.NDArray[np.uint32],
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
        slot = find_slot(graph, one, other)
        if graph.table[slot] != _NONE:
            add_histogram(graph, edge, graph.table[slot])
            continue
        graph.sizes[0] += 1
        graph.table[slot] = edge
        link_half(graph, 2 * edge, one)
        link_half(graph, 2 * edge + 1, other)


@njit(nogil=True, cache=True)
def _root(parent: _Int32, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(nogil=True, cache=True)
def _join(parent: _Int32, pairs: _Int64) -> None:
    for i in range(len(pairs)):
        one, other = _root(parent, pairs[i, 0]), _root(parent, pairs[i, 1])
        parent[max(one, other)] = min(one, other)


@njit(nogil=True, cache=True)
def _flatten(parent: _Int32) -> None:
    for node in range(parent.size):
        parent[node] = _root(parent, node)


# ----------------------------------------
# Fourth stage: merge regions of the whole volume, always the two that belong together most.
#
# The method is waterz's (Funke et al., TPAMI 2019), with its scores 1 - q, its queue of 256 bins in
# which the first in is the first out, its scores that are renewed only when an edge is due, and its
# rules for ties; on the graph of a whole volume quantile scores therefore give its very partition.
# (The mean is exact here and rounded there at every step: a few pairs may differ.) What differs is
# that edges are found in a hash table and the smaller of two regions moves, so that time is nearly
# linear in edges however large a body grows.


_BINS = 256
_MEAN = -1


def needs_histograms(scoring: str) -> bool:
    """Whether a scoring function looks at more than sums and counts."""
    return scoring != "mean"


def merge_regions(
    graph: RegionGraph, roots: npt.NDArray[np.int32], thresholds: Sequence[float], scoring: str
) -> Iterator[tuple[float, npt.NDArray[np.uint64]]]:
    """Merge up to each threshold, as ``psc.em.watershed.agglomerate`` does.

    Args:
        graph: of all fragments; it is used up.
        roots: int32 (N), the fragment that each fragment was joined to before.
        thresholds: scores in [0, 1]; regions merge if theirs is below.
        scoring: a key of ``psc.em.watershed.SCORING_FUNCTIONS``.

    Yields:
        (threshold, segment of every fragment, uint64 (N), ids 1..K in order of their first
        fragment), in ascending order of threshold.

    Raises:
        ConfigError: a threshold or the scoring is impossible.
    """
    ascending = SegmentationOptions(scoring=scoring, thresholds=thresholds).ascending
    quantile, highest_only = _meaning(scoring)
    edges = int(graph.sizes[0])
    if highest_only:
        _keep_highest(graph, edges)
    scores = np.empty(edges, np.float32)
    queue_next = np.full(edges, _NONE, np.int32)
    queue_first = np.full(_BINS, _NONE, np.int32)
    queue_last = np.full(_BINS, _NONE, np.int32)
    stale, dead = np.zeros(edges, np.bool_), np.zeros(edges, np.bool_)
    parent = np.arange(roots.size, dtype=np.int32)
    names = np.arange(roots.size, dtype=np.int32)
    _push_all(graph, edges, quantile, scores, queue_next, queue_first, queue_last)
    for threshold in ascending:
        _merge_until(
            graph,
            np.float32(threshold),
            quantile,
            scores,
            queue_next,
            queue_first,
            queue_last,
            stale,
            dead,
            parent,
            names,
        )
        yield threshold, _segments(roots, parent)


def _meaning(scoring: str) -> tuple[int, bool]:
    """Percentile (-1 = mean), and whether only the highest affinity of each pair counts."""
    if scoring == "mean":
        return _MEAN, False
    if found := re.fullmatch(r"aff(\d+)_his256", scoring):
        return int(found[1]), True
    if found := re.fullmatch(r"hist_quant_(\d+)", scoring):
        return int(found[1]), False
    raise ConfigError(f"scoring={scoring} is not available for volumes in blocks")


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
def _push(
    graph: RegionGraph,
    edge: int,
    quantile: int,
    scores: npt.NDArray[np.float32],
    queue_next: npt.NDArray[np.int32],
    queue_first: npt.NDArray[np.int32],
    queue_last: npt.NDArray[np.int32],
) -> int:
    """Score an edge and put it at the end of its bin, which is returned."""
    scores[edge] = _score(graph, edge, quantile)
    place = min(max(int(scores[edge] * _BINS), 0), _BINS - 1)
    queue_next[edge] = _NONE
    if queue_first[place] == _NONE:
        queue_first[place] = edge
    else:
        queue_next[queue_last[place]] = edge
    queue_last[place] = edge
    return place


@njit(nogil=True, cache=True)
def _push_all(
    graph: RegionGraph,
    edges: int,
    quantile: int,
    scores: npt.NDArray[np.float32],
    queue_next: npt.NDArray[np.int32],
    queue_first: npt.NDArray[np.int32],
    queue_last: npt.NDArray[np.int32],
) -> None:
    for edge in range(edges):
        _push(graph, edge, quantile, scores, queue_next, queue_first, queue_last)


@njit(nogil=True, cache=True)
def _merge_until(
    graph: RegionGraph,
    threshold: np.float32,
    quantile: int,
    scores: npt.NDArray[np.float32],
    queue_next: npt.NDArray[np.int32],
    queue_first: npt.NDArray[np.int32],
    queue_last: npt.NDArray[np.int32],
    stale: npt.NDArray[np.bool_],
    dead: npt.NDArray[np.bool_],
    parent: npt.NDArray[np.int32],
    names: npt.NDArray[np.int32],
) -> None:
    place = 0
    while place < _BINS:
        edge = queue_first[place]
        if edge == _NONE:
            place += 1
            continue
        if scores[edge] >= threshold:
            return
        queue_first[place] = queue_next[edge]
        if dead[edge]:
            continue
        if stale[edge]:
            stale[edge] = False
            again = _push(graph, edge, quantile, scores, queue_next, queue_first, queue_last)
            place = min(place, again)
            continue
        _merge(graph, edge, scores, stale, dead, parent, names)


@njit(nogil=True, cache=True)
def _merge(
    graph: RegionGraph,
    merged: int,
    scores: npt.NDArray[np.float32],
    stale: npt.NDArray[np.bool_],
    dead: npt.NDArray[np.bool_],
    parent: npt.NDArray[np.int32],
    names: npt.NDArray[np.int32],
) -> None:
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
        if not dead[edge]:
            neighbour = graph.ends[half ^ 1]
            remove_from_table(graph, edge)
            if neighbour == stays:
                dead[edge] = True
                graph.degree[stays] -= 1
            else:
                slot = find_slot(graph, stays, neighbour)
                other = graph.table[slot]
                if other == _NONE:
                    link_half(graph, half, stays)
                    graph.table[slot] = edge
                else:
                    theirs, ours = (edge, other) if gives else (other, edge)
                    kept, lost = (ours, theirs) if scores[theirs] > scores[ours] else (theirs, ours)
                    add_histogram(graph, lost, kept)
                    stale[kept], dead[lost] = True, True
                    graph.degree[neighbour] -= 1
                    if kept == edge:
                        graph.degree[stays] -= 1  # link_half counts the kept one anew
                        link_half(graph, half, stays)
                        graph.table[slot] = edge
        half = following
    parent[goes] = stays
    names[stays] = min(names[stays], names[goes])


@njit(nogil=True, cache=True)
def _segments(
    roots: npt.NDArray[np.int32], parent: npt.NDArray[np.int32]
) -> npt.NDArray[np.uint64]:
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
