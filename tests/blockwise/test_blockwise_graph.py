from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psc.blockwise.graph import (
    BlockGraph,
    Numbering,
    assemble,
    joined_pairs,
    joined_roots,
    merge_regions,
    needs_histograms,
    region_graph,
)
from psc.blockwise.images import dequantised
from psc.em.settings import SCORING_FUNCTIONS
from psc.em.watershed import agglomerate
from psc.errors import ConfigError, DataError

THRESHOLDS = [0.1, 0.3, 0.5, 0.7, 0.9]


def random_case(seed, shape=(9, 8, 10), fragments=60, correlated=True):
    rng = np.random.default_rng(seed)
    ids = np.kron(
        rng.integers(1, fragments + 1, tuple(-(-n // 2) for n in shape)), np.ones((2, 2, 2), int)
    )[: shape[0], : shape[1], : shape[2]].astype(np.uint64)
    affinities = rng.integers(0, 256, (3, *shape))
    if correlated:
        affinities = (affinities // 4 + rng.integers(0, 192, (1, *shape))).clip(0, 255)
    return ids, affinities.astype(np.uint8)


def faces_by_hand(ids, affinities):
    """All affinities of each pair of touching fragments."""
    found = {}
    for axis in range(3):
        for v in np.ndindex(ids.shape):
            if v[axis] > 0:
                u = tuple(c - (a == axis) for a, c in enumerate(v))
                if ids[u] != ids[v] and ids[u] and ids[v]:
                    pair = tuple(sorted((int(ids[u]), int(ids[v]))))
                    found.setdefault(pair, Counter())[int(affinities[(axis, *v)])] += 1
    return found


def as_counters(graph):
    return {
        (int(a), int(b)): Counter(
            dict(
                zip(
                    graph.values[graph.offsets[i] : graph.offsets[i + 1]].tolist(),
                    graph.counts[graph.offsets[i] : graph.offsets[i + 1]].tolist(),
                    strict=True,
                )
            )
        )
        for i, (a, b) in enumerate(graph.pairs)
    }


def merged(ids, affinities, thresholds, scoring, parts=None):
    """Segmentations by our graph, of one block or of several given by their first voxels."""
    graphs = parts or [region_graph(affinities, ids)]
    fragments = int(ids.max())
    numbering = Numbering(fragments, np.array([0, fragments]))
    graph = assemble(
        np.arange(fragments, dtype=np.int32),
        [BlockGraph(numbering.positions(g.pairs), g.offsets, g.values, g.counts) for g in graphs],
        edges=sum(len(g.pairs) for g in graphs),
        entries=sum(g.values.size for g in graphs),
        histograms=needs_histograms(scoring),
    )
    table = np.arange(fragments, dtype=np.int32)
    return {
        t: segments[ids.astype(int) - 1]
        for t, segments in merge_regions(graph, table, thresholds, scoring)
    }


def same_partition(one, two):
    pairs = {(int(a), int(b)) for a, b in zip(one.ravel(), two.ravel(), strict=True)}
    return len(pairs) == len(np.unique(one)) == len(np.unique(two))


@pytest.mark.parametrize("seed", range(3))
def test_the_graph_holds_every_face(seed):
    ids, affinities = random_case(seed, shape=(5, 6, 4))
    ids[ids < 5] = 0
    graph = region_graph(affinities, ids)
    assert as_counters(graph) == faces_by_hand(ids, affinities)
    assert (np.diff(graph.pairs[:, 0].astype(int)) >= 0).all()


def test_the_graphs_of_blocks_add_up_to_that_of_the_volume():
    ids, affinities = random_case(7)
    total = {}
    for z in (slice(0, 4), slice(4, 9)):
        for x in (slice(0, 7), slice(7, 10)):
            box = (
                slice(max(z.start - 1, 0), z.stop),
                slice(None),
                slice(max(x.start - 1, 0), x.stop),
            )
            start = (z.start - box[0].start, 0, x.start - box[2].start)
            part = as_counters(region_graph(affinities[(slice(None), *box)], ids[box], start))
            for pair, counter in part.items():
                total.setdefault(pair, Counter()).update(counter)
    assert total == faces_by_hand(ids, affinities)


@pytest.mark.parametrize("scoring", [name for name in SCORING_FUNCTIONS if name != "mean"])
@pytest.mark.parametrize("correlated", [True, False])
def test_quantiles_give_the_partition_of_waterz(scoring, correlated):
    for seed in range(4):
        ids, affinities = random_case(
            seed, shape=(16, 14, 12), fragments=150, correlated=correlated
        )
        ids = np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.uint64) + 1
        # waterz numbers by first appearance before it merges (psc.em.watershed)
        first = np.unique(ids, return_index=True)[1]
        ids = (np.argsort(np.argsort(first)) + 1).astype(np.uint64)[ids.astype(int) - 1]
        found = merged(ids, affinities, THRESHOLDS, scoring)
        sizes = []
        for t, expected in agglomerate(dequantised(affinities), ids, THRESHOLDS, scoring=scoring):
            assert same_partition(found[t], expected), (seed, t)
            sizes.append(len(np.unique(expected)))
        assert sizes[0] > sizes[-1]


def test_the_mean_gives_nearly_the_partition_of_waterz():
    ids, affinities = random_case(1, shape=(16, 14, 12), fragments=150)
    found = merged(ids, affinities, THRESHOLDS, "mean")
    for t, expected in agglomerate(dequantised(affinities), ids, THRESHOLDS, scoring="mean"):
        both = np.unique(np.stack([found[t].ravel(), expected.ravel()]), axis=1).shape[1]
        assert both <= len(np.unique(expected)) + 2


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from(["mean", "hist_quant_50", "aff50_his256"]))
def test_every_region_that_is_left_scores_at_least_the_threshold(seed, scoring):
    """Whatever the order of merges: no pair may remain that should have merged."""
    ids, affinities = random_case(seed, shape=(8, 8, 8), fragments=30)
    quantile = {"mean": None, "hist_quant_50": 50, "aff50_his256": 50}[scoring]
    for threshold, segments in merged(ids, affinities, [0.35, 0.6], scoring).items():
        between = {}
        for (a, b), counter in faces_by_hand(ids, affinities).items():
            one = int(segments[ids == a][0])
            two = int(segments[ids == b][0])
            if one != two:
                values = sorted(counter.elements())
                values = values[-1:] if scoring.startswith("aff") else values
                between.setdefault(tuple(sorted((one, two))), []).extend(values)
        for values in between.values():
            values.sort()
            if quantile is None:
                score = 1 - np.mean(values) / 255
            else:
                score = 1 - (values[quantile * len(values) // 100] + 0.5) / 256
            assert score >= threshold - 1 / 256 - 1e-6  # bins of the queue


def test_parallel_edges_of_joined_fragments_become_one():
    part = BlockGraph(
        pairs=np.array([[0, 2], [1, 2], [0, 1], [2, 3]]),
        offsets=np.array([0, 2, 4, 5, 6]),
        values=np.array([10, 200, 10, 100, 255, 7], np.uint8),
        counts=np.array([1, 2, 3, 4, 5, 6], np.uint32),
    )
    roots = joined_roots(4, iter([np.array([[0, 1]])]))
    assert roots.tolist() == [0, 0, 2, 3]
    graph = assemble(roots, [part], edges=4, entries=6, histograms=True)
    assert graph.sizes[0] == 2  # 0-1 lies within the joined fragment
    entry, histogram = graph.heads[0], []
    while entry != -1:
        histogram.append((int(graph.entry_value[entry]), int(graph.entry_count[entry])))
        entry = graph.entry_next[entry]
    assert histogram == [(10, 4), (100, 4), (200, 2)]
    assert graph.faces[0] == 10
    assert graph.totals[0] == 10 * 4 + 100 * 4 + 200 * 2


def test_fragments_join_by_more_than_half_of_what_either_has():
    first = np.array([[1, 1, 1, 2, 2, 0], [3, 3, 3, 3, 4, 4]], np.uint64)
    second = np.array([[11, 11, 12, 0, 0, 9], [13, 13, 14, 14, 15, 15]], np.uint64)
    # 1 and 11 share two of three; 2 meets nothing; 3 shares two of four with each; 4 is 15
    assert joined_pairs(first, second).tolist() == [[1, 11], [4, 15]]
    assert joined_pairs(first[:, :0], second[:, :0]).shape == (0, 2)


def test_joins_chain_over_blocks():
    pairs = [np.array([[5, 1], [3, 4]]), np.array([[4, 5]]), np.empty((0, 2), np.int64)]
    assert joined_roots(7, iter(pairs)).tolist() == [0, 1, 2, 1, 1, 1, 6]


def test_positions_of_ids_close_the_gaps_between_blocks():
    numbering = Numbering.of_counts({0: 3, 2: 2, 1: 0}, 1000)
    ids = np.array([1, 3, 2001, 2002], np.uint64)
    assert numbering.positions(ids).tolist() == [0, 2, 3, 4]
    assert numbering.fragments == 5
    huge = Numbering.of_counts({0: 1, 1: 1}, 2**63)
    assert huge.positions(np.array([1, 2**63 + 1], np.uint64)).tolist() == [0, 1]


def test_what_does_not_fit_is_refused():
    roots = np.arange(2, dtype=np.int32)
    with pytest.raises(DataError, match="too large for one process"):
        assemble(roots, [], edges=2**30 + 1, entries=0, histograms=True)
    graph = assemble(roots, [], edges=0, entries=0, histograms=True)
    with pytest.raises(ConfigError, match="scoring=best: allowed are"):
        list(merge_regions(graph, roots, [0.5], "best"))
    ((_, segments),) = merge_regions(graph, roots, [0.5], "mean")
    assert segments.tolist() == [1, 2]
