"""Pair counts against the maximin edge of every pair, found by Floyd and Warshall's algorithm."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from psc.em.malis import (
    ALL_EDGES,
    DIFFERENT,
    SAME,
    UNKNOWN,
    constrained_counts,
    edges_by_affinity,
    malis_pairs,
    pair_weights,
)
from psc.errors import DataError

SHAPE = (3, 4, 5)
STEPS = (20, 5, 1)
VOXELS = 60
# Few values make many ties; 0 and 1 are also what a pass sets its known edges to.
TIED = st.sampled_from([0.0, 0.25, 0.5, 1.0])
AFFINITIES = st.one_of(
    hnp.arrays(np.float32, (3, *SHAPE), elements=TIED),
    st.integers(0, 2**32).map(
        lambda seed: np.random.default_rng(seed).random((3, *SHAPE), dtype=np.float32)
    ),
)
LABELS = hnp.arrays(np.int64, SHAPE, elements=st.sampled_from([0, 1, 1, 2, 7, 2**62]))
MASKS = hnp.arrays(np.bool_, (3, *SHAPE))


def edges_of_the_grid():
    """Edge → its two voxels, for a volume of SHAPE."""
    positions = np.indices(SHAPE).reshape(3, -1)
    return {
        axis * VOXELS + voxel: (voxel, voxel - STEPS[axis])
        for axis in range(3)
        for voxel in range(VOXELS)
        if positions[axis, voxel] > 0
    }


EDGES = edges_of_the_grid()


def target(labels, edge):
    here, before = (labels.ravel()[voxel] for voxel in EDGES[edge])
    return int(here == before != 0)


def is_known(labels, mask, edge):
    if mask is not None:
        return bool(mask.ravel()[edge])
    return all(labels.ravel()[voxel] != 0 for voxel in EDGES[edge])


def maximin_counts(labels, order):
    """Positive and negative pairs of each edge, given the edges from the strongest on."""
    strength = np.full((VOXELS, VOXELS), -1)
    np.fill_diagonal(strength, len(order))
    for rank, edge in enumerate(reversed(order)):
        a, b = EDGES[edge]
        strength[a, b] = strength[b, a] = rank
    for k in range(VOXELS):
        through = np.minimum(strength[:, k, None], strength[None, k])
        np.maximum(strength, through, out=strength)
    counts = np.zeros((2, 3 * VOXELS), dtype=np.int64)
    flat = labels.ravel()
    for a in range(VOXELS):
        for b in range(a):
            if flat[a] and flat[b]:
                edge = order[len(order) - 1 - strength[a, b]]
                counts[int(flat[a] != flat[b]), edge] += 1
    return counts.reshape(2, 3, *SHAPE)


@settings(max_examples=25)
@given(AFFINITIES, LABELS)
def test_one_pass_equals_brute_force(affinities, labels):
    order = sorted(EDGES, key=lambda edge: (-affinities.ravel()[edge], edge))

    counts = malis_pairs(affinities, labels)

    np.testing.assert_array_equal(counts, maximin_counts(labels, order))
    assert (counts.positive.dtype, counts.negative.dtype) == (np.int64, np.int64)


@settings(max_examples=40)
@given(AFFINITIES, LABELS, st.none() | MASKS)
def test_two_constrained_passes_equal_brute_force(affinities, labels, mask):
    flat = affinities.ravel()
    known = {edge for edge in EDGES if is_known(labels, mask, edge)}
    same = {edge for edge in known if target(labels, edge)}
    different = known - same

    def strongest_first(bound, first=(), last=()):
        value = {e: bound(flat[e], target(labels, e)) if e in known else flat[e] for e in EDGES}
        return sorted(EDGES, key=lambda e: (-value[e], (e in last) - (e in first), e))

    counts = constrained_counts(affinities, labels, mask)

    # Among equals, what a pass sets to 0 comes last and what it sets to 1 first.
    positive = maximin_counts(labels, strongest_first(min, last=different))[0].ravel()
    negative = maximin_counts(labels, strongest_first(max, first=same))[1].ravel()
    positive[[edge for edge in range(3 * VOXELS) if edge not in same]] = 0
    negative[[edge for edge in range(3 * VOXELS) if edge not in different]] = 0
    np.testing.assert_array_equal(counts.positive.ravel(), positive)
    np.testing.assert_array_equal(counts.negative.ravel(), negative)


def test_by_hand():
    """A row 1 1 2 2 0 2: the path from the last voxel leads through the 0."""
    labels = np.array([[[1, 1, 2, 2, 0, 2]]])
    affinities = np.zeros((3, 1, 1, 6))
    affinities[2, 0, 0] = [0, 0.9, 0.3, 0.8, 0.7, 0.6]

    counts = malis_pairs(affinities, labels)

    assert counts.positive[2].ravel().tolist() == [0, 1, 0, 1, 0, 2]
    assert counts.negative[2].ravel().tolist() == [0, 0, 6, 0, 0, 0]
    assert not counts.positive[:2].any()

    unknown = constrained_counts(affinities, labels)
    assert unknown.positive[2].ravel().tolist() == [0, 1, 0, 1, 0, 0]
    assert unknown.negative[2].ravel().tolist() == [0, 0, 6, 0, 0, 0]

    boundary = constrained_counts(affinities, labels, np.ones(affinities.shape, dtype=bool))
    assert boundary.positive[2].ravel().tolist() == [0, 1, 0, 1, 0, 0]
    assert boundary.negative[2].ravel().tolist() == [0, 0, 6, 0, 0, 0]


def test_equal_affinities_are_taken_along_z_then_y_then_x():
    labels = np.arange(1, 9).reshape(2, 2, 2)

    counts = malis_pairs(np.full((3, 2, 2, 2), 0.5), labels)

    expected = np.zeros((3, 2, 2, 2), dtype=np.int64)
    expected[0, 1] = 1  # all four edges along z
    expected[1, 0, 1] = 4  # then those along y, of which the ones at z = 1 come too late
    expected[2, 0, 0, 1] = 16
    np.testing.assert_array_equal(counts.negative, expected)

    # Places decide, not labels: mirrored labels are joined by the same edges, not by mirrored ones.
    turned = malis_pairs(np.full((3, 2, 2, 2), 0.5), np.flip(labels))
    np.testing.assert_array_equal(turned.negative, expected)


def test_edges_are_sorted_stably_over_all_bits():
    rng = np.random.default_rng(0)
    affinities = rng.random(30_000, dtype=np.float32) ** 9  # exponents of all sizes
    affinities[rng.integers(0, affinities.size, 9_000)] = affinities[0]
    affinities[:6] = [0, 1, -0.0, np.float32(1e-44), 1, 0]
    kinds = rng.choice(np.array([0, SAME, DIFFERENT, UNKNOWN], dtype=np.uint8), affinities.size)
    stable = np.argsort(-affinities, kind="stable")

    both = edges_by_affinity(affinities.view(np.uint32), kinds, SAME, UNKNOWN)
    everything = edges_by_affinity(affinities.view(np.uint32), kinds, ALL_EDGES, 0)

    expected = stable[(kinds[stable] == SAME) | (kinds[stable] == UNKNOWN)]
    names = np.where(kinds[expected] == SAME, expected, -1 - expected)
    np.testing.assert_array_equal(both, names)
    np.testing.assert_array_equal(everything, stable[kinds[stable] != 0])


@pytest.mark.parametrize("labels", ["40 and 0", "all different"])
def test_many_labels_are_counted_as_one_by_one(labels):
    """Tables of labels grow, merge and are used again; the pool of them grows."""
    rng = np.random.default_rng(1)
    shape = (16, 17, 18)
    volume = np.arange(1, 16 * 17 * 18 + 1).reshape(shape)
    if labels == "40 and 0":
        volume = rng.integers(0, 41, shape)
    affinities = rng.random((3, *shape), dtype=np.float32)

    positive, negative = malis_pairs(affinities, volume)

    alone = sum(malis_pairs(affinities, (volume == i).astype(int)).positive for i in range(1, 41))
    expected = alone if labels == "40 and 0" else np.zeros_like(positive)
    np.testing.assert_array_equal(positive, expected)
    together = malis_pairs(affinities, (volume != 0).astype(int))
    np.testing.assert_array_equal(positive + negative, together.positive)
    assert not together.negative.any()


@settings(max_examples=30)
@given(AFFINITIES, LABELS)
def test_totals_are_the_pairs_that_are_connected(affinities, labels):
    sizes = np.unique(labels[labels != 0], return_counts=True)[1]
    same = sum(size * (size - 1) // 2 for size in sizes)
    pairs = sizes.sum() * (sizes.sum() - 1) // 2
    in_pieces = 0
    for label in np.unique(labels[labels != 0]):
        pieces, _ = ndimage.label(labels == label)
        in_pieces += sum(n * (n - 1) // 2 for n in np.bincount(pieces.ravel())[1:])

    one_pass = malis_pairs(affinities, labels)
    two_passes = constrained_counts(affinities, labels, np.ones(affinities.shape, dtype=bool))

    assert (one_pass.positive.sum(), one_pass.negative.sum()) == (same, pairs - same)
    # Everything is known: positive pairs of pieces that do not touch have no edge that could join
    # them; negative pairs all have one, even where boundaries have an affinity of exactly 1.
    assert (two_passes.positive.sum(), two_passes.negative.sum()) == (in_pieces, pairs - same)


def test_counts_beyond_32_bits_are_exact():
    shape = (60, 61, 62)
    labels = np.ones(shape, dtype=np.uint8)
    labels[30:] = 2
    affinities = np.ones((3, *shape), dtype=np.float32)
    affinities[0, 30] = 0.25
    affinities[0, 30, 3, 4] = 0.5

    counts = constrained_counts(affinities, labels)

    half = 30 * 61 * 62
    assert counts.negative[0, 30, 3, 4] == half**2 == 12873171600
    assert counts.negative.sum() == half**2
    assert counts.positive.sum() == half * (half - 1)


def test_pieces_of_a_neuron_are_one_object():
    """Two pieces of body 5, joined outside the crop, on both sides of body 6."""
    labels = np.array([[[5, 5, 6, 5]]])
    affinities = np.full((3, 1, 1, 4), 0.5)

    whole = constrained_counts(affinities, labels)
    relabelled = constrained_counts(affinities, np.array([[[5, 5, 6, 7]]]))

    assert whole.positive[2].ravel().tolist() == [0, 1, 0, 0]
    assert whole.negative[2].ravel().tolist() == [0, 0, 2, 1]
    assert relabelled.negative[2].ravel().tolist() == [0, 0, 2, 3]


def test_one_label_or_none():
    rng = np.random.default_rng(2)
    affinities = rng.random((3, *SHAPE))

    one = malis_pairs(affinities, np.full(SHAPE, 9))
    assert one.positive.sum() == VOXELS * (VOXELS - 1) // 2
    assert not one.negative.any()
    for count in (malis_pairs, constrained_counts):
        assert not np.any(count(affinities, np.zeros(SHAPE, dtype=int)))
    single = malis_pairs(np.zeros((3, 1, 1, 1)), np.ones((1, 1, 1), dtype=int))
    assert single.positive.shape == (3, 1, 1, 1)
    assert not np.any(single)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_only_equality_of_ids_counts(dtype):
    rng = np.random.default_rng(3)
    affinities = rng.random((3, *SHAPE))
    small = rng.integers(0, 5, SHAPE).astype(dtype)
    ids = np.array([0, 200, 3, 101, 7], dtype=dtype)
    if dtype in (np.int64, np.uint64):
        ids[1:] += np.array(2**62, dtype=dtype)
    # Also in any order of memory, and whatever stands where there is no edge.
    other = np.asfortranarray(affinities)
    other[0, 0] = 1 - other[0, 0]
    np.testing.assert_array_equal(
        constrained_counts(affinities, small),
        constrained_counts(other, ids[small][:, ::-1][:, ::-1]),
    )


def test_threads_get_what_one_gets():
    rng = np.random.default_rng(4)
    volumes = [
        (rng.random((3, 12, 13, 14), dtype=np.float32), rng.integers(0, 6, (12, 13, 14)))
        for _ in range(8)
    ]
    alone = [constrained_counts(*volume) for volume in volumes]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda volume: constrained_counts(*volume), volumes))

    np.testing.assert_array_equal(together, alone)


def test_weights_are_fractions_of_pairs():
    counts = np.array([0, 2**53, 3 * 2**53])

    assert pair_weights(counts).tolist() == [0, 0.25, 0.75]
    assert pair_weights(counts, 2**56).tolist() == [0, 0.125, 0.375]
    assert pair_weights(counts).dtype == np.float32
    assert pair_weights(np.zeros(3, dtype=np.int64)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("affinities", "labels", "mask", "message"),
    [
        (np.zeros((3, 2, 2, 2)), np.ones((2, 2, 3), int), None, r"labels have shape \(2, 2, 3\)"),
        (np.zeros((3, 2, 2, 2)), np.ones((2, 2, 2)), None, "labels must be integers"),
        (np.zeros((3, 2, 2, 2)), -np.ones((2, 2, 2), int), None, "must not be negative"),
        (np.zeros((2, 2, 2, 2)), np.ones((2, 2, 2), int), None, "must have shape"),
        (np.full((3, 2, 2, 2), 1.5), np.ones((2, 2, 2), int), None, "apply the sigmoid"),
        (np.full((3, 2, 2, 2), np.nan), np.ones((2, 2, 2), int), None, "nan"),
        (np.zeros((3, 2, 2, 2)), np.ones((2, 2, 2), int), np.ones((2, 2, 2), bool), "mask must"),
        (np.zeros((3, 2, 2, 2)), np.ones((2, 2, 2), int), np.ones((3, 2, 2, 2)), "mask must be"),
    ],
)
def test_refused(affinities, labels, mask, message):
    with pytest.raises(DataError, match=message):
        constrained_counts(affinities, labels, mask)
    if mask is None:
        with pytest.raises(DataError, match=message):
            malis_pairs(affinities, labels)
