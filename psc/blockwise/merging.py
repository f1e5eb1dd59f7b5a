"""Fourth stage: merge regions of the whole volume, always the two that belong together most.

The method is waterz's (Funke et al., TPAMI 2019), with its scores 1 - q, its queue of 256 bins in
which the first in is the first out, its scores that are renewed only when an edge is due, and its
rules for ties; on the graph of a whole volume quantile scores therefore give its very partition.
(The mean is exact here and rounded there at every step: a few pairs may differ.) What differs is
that edges are found in a hash table and the smaller of two regions moves, so that time is nearly
linear in edges however large a body grows.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from psc.blockwise.region_graph import (
    RegionGraph,
    add_histogram,
    find_slot,
    link_half,
    remove_from_table,
)
from psc.errors import ConfigError
from psc.segmentation.agglomeration import check_scoring, checked_thresholds

__all__ = ["merge_regions", "needs_histograms"]

_BINS = 256
_MEAN = -1
_NONE = -1


def needs_histograms(scoring: str) -> bool:
    """Whether a scoring function looks at more than sums and counts."""
    return scoring != "mean"


def merge_regions(
    graph: RegionGraph, roots: npt.NDArray[np.int32], thresholds: Sequence[float], scoring: str
) -> Iterator[tuple[float, npt.NDArray[np.uint64]]]:
    """Merge up to each threshold, as ``psc.segmentation.agglomeration.agglomerate`` does.

    Args:
        graph: of all fragments; it is used up.
        roots: int32 (N), the fragment that each fragment was joined to before.
        thresholds: scores in [0, 1]; regions merge if theirs is below.
        scoring: a key of ``psc.segmentation.agglomeration.SCORING_FUNCTIONS``.

    Yields:
        (threshold, segment of every fragment, uint64 (N), ids 1..K in order of their first
        fragment), in ascending order of threshold.

    Raises:
        ConfigError: a threshold or the scoring is impossible.
    """
    ascending = checked_thresholds(thresholds)
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
    check_scoring(scoring)
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
