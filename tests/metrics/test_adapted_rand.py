"""Adapted Rand error against hand, brute force, scikit-image and waterz."""

import itertools

import numpy as np
import pytest
import waterz
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import adapted_rand_error as skimage_adapted_rand_error

from psc.metrics import ContingencyTable, adapted_rand, adapted_rand_from_table

EXACT = 1e-12


@st.composite
def label_pairs(draw, dims=(1, 3), max_side=4):
    """Two label arrays of one shape, at least one voxel of the first above 0."""
    shape = draw(hnp.array_shapes(min_dims=dims[0], max_dims=dims[1], max_side=max_side))
    truth = draw(hnp.arrays(np.uint64, shape, elements=st.integers(0, 4)))
    predicted = draw(hnp.arrays(np.uint64, shape, elements=st.integers(0, 4)))
    truth.flat[0] = max(truth.flat[0], 1)
    return truth, predicted


def test_hand_computed():
    # Unordered pairs: truth joins 6 + 1, the prediction joins all 15, both join 7.
    truth = np.array([1, 1, 1, 1, 2, 2])
    predicted = np.ones(6, dtype=np.int64)

    error, precision, recall = adapted_rand(truth, predicted)

    assert precision == pytest.approx(7 / 15, abs=EXACT)
    assert recall == 1.0
    assert error == pytest.approx(1 - 2 * 7 / (7 + 15), abs=EXACT)


def test_hand_computed_with_self_pairs():
    # Ordered pairs with the six self-pairs: truth 16 + 4, prediction 36, both 20.
    truth = np.array([1, 1, 1, 1, 2, 2])
    predicted = np.ones(6, dtype=np.int64)

    result = adapted_rand(truth, predicted, keep_self_pairs=True)

    assert result == pytest.approx((1 - 40 / 56, 20 / 36, 1.0), abs=EXACT)


@settings(deadline=None, max_examples=40)
@given(label_pairs(max_side=3))
@pytest.mark.parametrize("keep_self_pairs", [False, True])
def test_equals_counting_every_pair_of_voxels(keep_self_pairs, labels):
    truth, predicted = labels
    voxels = [(t, p) for t, p in zip(truth.flat, predicted.flat, strict=True) if t != 0]
    count = itertools.combinations_with_replacement if keep_self_pairs else itertools.combinations
    pairs = [(a[0] == b[0], a[1] == b[1]) for a, b in count(voxels, 2)]
    # A pair of two different voxels stands for two ordered pairs, a self-pair for one.
    weights = [2] * len(pairs)
    if keep_self_pairs:
        weights = [1 if i == j else 2 for i, j in count(range(len(voxels)), 2)]
    in_truth = sum(w for (t, _), w in zip(pairs, weights, strict=True) if t)
    in_prediction = sum(w for (_, p), w in zip(pairs, weights, strict=True) if p)
    both = sum(w for (t, p), w in zip(pairs, weights, strict=True) if t and p)

    error, precision, recall = adapted_rand(truth, predicted, keep_self_pairs=keep_self_pairs)

    assert precision == pytest.approx(both / in_prediction if in_prediction else 1.0, abs=EXACT)
    assert recall == pytest.approx(both / in_truth if in_truth else 1.0, abs=EXACT)
    joined = in_truth + in_prediction
    assert error == pytest.approx(1 - 2 * both / joined if joined else 0.0, abs=EXACT)


@settings(deadline=None, max_examples=40)
@given(label_pairs())
@pytest.mark.parametrize("ignore", [(0,), (), (0, 2)], ids=str)
def test_equals_scikit_image(ignore, labels):
    truth, predicted = labels
    kept = ~np.isin(truth, ignore)
    # scikit-image divides 0 by 0 where one of the two joins nothing.
    for labels_kept in (truth[kept], predicted[kept]):
        assume(np.unique(labels_kept).size < labels_kept.size)

    ours = adapted_rand(truth, predicted, ignore_truth=ignore)
    theirs = skimage_adapted_rand_error(
        truth.astype(np.int64), predicted.astype(np.int64), ignore_labels=ignore
    )

    assert ours.error == pytest.approx(theirs[0], abs=EXACT)
    # As a set: scikit-image's issue 6485 says that it returns them the other way round.
    assert sorted(ours[1:]) == pytest.approx(sorted(theirs[1:]), abs=EXACT)


@settings(deadline=None, max_examples=30)
@given(label_pairs(dims=(3, 3)))
def test_kept_self_pairs_equal_waterz(labels):
    truth, predicted = labels

    ours = adapted_rand(truth, predicted, keep_self_pairs=True)
    theirs = waterz.evaluate(predicted, truth)  # in this order, uint64, three axes

    assert ours.precision == pytest.approx(theirs["rand_merge"], abs=1e-9)
    assert ours.recall == pytest.approx(theirs["rand_split"], abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(label_pairs(), st.lists(st.integers(1, 2**64 - 1), min_size=4, max_size=4, unique=True))
def test_sparse_ids_equal_their_dense_relabelling(labels, ids):
    truth, predicted = labels
    sparse = np.array([0, *ids], dtype=np.uint64)

    assert adapted_rand(sparse[truth], sparse[predicted]) == pytest.approx(
        adapted_rand(truth, predicted), abs=EXACT
    )


@settings(deadline=None, max_examples=40)
@given(label_pairs())
def test_identity_is_exactly_right(labels):
    truth, _ = labels

    assert adapted_rand(truth, truth) == (0.0, 1.0, 1.0)


@settings(deadline=None, max_examples=40)
@given(label_pairs())
def test_swapping_arguments_swaps_precision_and_recall(labels):
    truth, predicted = labels

    there = adapted_rand(truth, predicted, ignore_truth=())
    back = adapted_rand(predicted, truth, ignore_truth=())

    assert (back.error, back.recall, back.precision) == there


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        ([1], [7], (0.0, 1.0, 1.0)),  # one voxel: no pair at all
        ([1, 2, 3], [4, 5, 6], (0.0, 1.0, 1.0)),
        ([1, 1, 1], [4, 5, 6], (1.0, 1.0, 0.0)),  # nothing joined: nothing joined wrongly
        ([1, 2, 3], [4, 4, 4], (1.0, 0.0, 1.0)),
    ],
)
def test_where_nothing_is_joined(truth, predicted, expected):
    assert adapted_rand(np.array(truth), np.array(predicted)) == expected


def test_segments_too_large_for_products_in_int64():
    huge = 2**40  # voxels; squared 2**80
    table = ContingencyTable(
        truth_ids=np.array([1, 1, 2], dtype=np.uint64),
        predicted_ids=np.array([1, 2, 2], dtype=np.uint64),
        counts=np.array([huge, huge, 2 * huge], dtype=np.int64),
    )
    both = sum(n * (n - 1) for n in (huge, huge, 2 * huge))
    in_truth = 2 * (2 * huge) * (2 * huge - 1)
    in_prediction = huge * (huge - 1) + 3 * huge * (3 * huge - 1)

    result = adapted_rand_from_table(table)

    expected = (1 - 2 * both / (in_truth + in_prediction), both / in_prediction, both / in_truth)
    assert result == pytest.approx(expected, abs=1e-15)
