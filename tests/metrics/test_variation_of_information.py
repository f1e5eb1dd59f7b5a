"""Variation of information against hand, brute force and scikit-image; its properties."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import variation_of_information as skimage_variation_of_information

from psc.metrics import variation_of_information

EXACT = 1e-12


@st.composite
def label_pairs(draw, lowest=0):
    """Two label arrays of one shape, at least one voxel of the first above 0."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=7))
    elements = st.integers(lowest, 6)
    truth = draw(hnp.arrays(np.uint64, shape, elements=elements))
    predicted = draw(hnp.arrays(np.uint64, shape, elements=elements))
    truth.flat[0] = max(truth.flat[0], 1)
    return truth, predicted


def entropy(labels):
    counts = Counter(labels).values()
    return -sum(count / len(labels) * math.log2(count / len(labels)) for count in counts)


def test_hand_computed():
    # Truth: two segments of four voxels. The first is halved, the second is whole but shares its
    # predicted id with one half: H(predicted | truth) = 1/2 bit, and the predicted segment of
    # six voxels hides 2 + 4 of them: H(truth | predicted) = 6/8 h(1/3).
    truth = np.array([1, 1, 1, 1, 2, 2, 2, 2])
    predicted = np.array([5, 5, 6, 6, 6, 6, 6, 6])

    split, merge = variation_of_information(truth, predicted)

    assert split == pytest.approx(0.5, abs=EXACT)
    assert merge == pytest.approx(0.75 * (math.log2(3) - 2 / 3), abs=EXACT)


def test_total_is_the_sum():
    result = variation_of_information(np.array([1, 1, 2]), np.array([1, 2, 2]))

    assert result.total == result.split + result.merge > 0


@settings(deadline=None, max_examples=40)
@given(label_pairs())
def test_equals_brute_force(labels):
    truth, predicted = labels
    pairs = [(t, p) for t, p in zip(truth.flat, predicted.flat, strict=True) if t != 0]
    joint = entropy(pairs)

    split, merge = variation_of_information(truth, predicted)

    assert split == pytest.approx(joint - entropy([t for t, _ in pairs]), abs=EXACT)
    assert merge == pytest.approx(joint - entropy([p for _, p in pairs]), abs=EXACT)


@settings(deadline=None, max_examples=40)
@given(label_pairs())
def test_equals_scikit_image(labels):
    truth, predicted = labels

    ours = variation_of_information(truth, predicted)
    theirs = skimage_variation_of_information(
        truth.astype(np.int64), predicted.astype(np.int64), ignore_labels=(0,)
    )

    assert ours == pytest.approx(tuple(theirs), abs=EXACT)


@settings(deadline=None, max_examples=40)
@given(label_pairs())
def test_equals_scikit_image_without_ignored_labels(labels):
    truth, predicted = labels

    ours = variation_of_information(truth, predicted, ignore_truth=())
    theirs = skimage_variation_of_information(truth.astype(np.int64), predicted.astype(np.int64))

    assert ours == pytest.approx(tuple(theirs), abs=EXACT)


@settings(deadline=None, max_examples=40)
@given(label_pairs())
def test_identity_is_exactly_zero(labels):
    truth, _ = labels

    assert variation_of_information(truth, truth) == (0.0, 0.0)


@settings(deadline=None, max_examples=40)
@given(label_pairs())
def test_swapping_arguments_swaps_split_and_merge(labels):
    truth, predicted = labels

    there = variation_of_information(truth, predicted, ignore_truth=())
    back = variation_of_information(predicted, truth, ignore_truth=())

    assert (back.merge, back.split) == pytest.approx(there, abs=EXACT)


@settings(deadline=None, max_examples=40)
@given(label_pairs(), st.permutations(range(7)))
def test_ids_are_names_only(labels, names):
    truth, predicted = labels
    renamed = np.array(names, dtype=np.uint64)[predicted]

    assert variation_of_information(truth, renamed) == pytest.approx(
        variation_of_information(truth, predicted), abs=EXACT
    )


@settings(deadline=None, max_examples=40)
@given(label_pairs(), st.lists(st.integers(1, 2**64 - 1), min_size=6, max_size=6, unique=True))
def test_sparse_ids_equal_their_dense_relabelling(labels, ids):
    truth, predicted = labels
    sparse = np.array([0, *ids], dtype=np.uint64)

    assert variation_of_information(sparse[truth], sparse[predicted]) == pytest.approx(
        variation_of_information(truth, predicted), abs=EXACT
    )


@settings(deadline=None, max_examples=40)
@given(label_pairs(lowest=1))
def test_splitting_a_segment_of_the_truth_raises_only_split(labels):
    truth, pieces = labels

    split, merge = variation_of_information(truth, truth * np.uint64(10) + pieces)

    assert merge == 0.0
    assert split == pytest.approx(
        entropy(list(zip(truth.flat, pieces.flat, strict=True))) - entropy(list(truth.flat)),
        abs=EXACT,
    )


def test_predicted_zero_is_a_segment_unless_ignored():
    truth = np.array([1, 1, 2, 2])
    predicted = np.array([1, 0, 0, 2])

    assert variation_of_information(truth, predicted) == pytest.approx((1.0, 0.5), abs=EXACT)
    assert variation_of_information(truth, predicted, ignore_predicted=(0,)) == (0.0, 0.0)


def test_truth_zero_is_unknown_unless_asked_for():
    truth = np.array([0, 0, 1, 1])
    predicted = np.array([3, 4, 5, 5])

    assert variation_of_information(truth, predicted) == (0.0, 0.0)
    assert variation_of_information(truth, predicted, ignore_truth=()) == pytest.approx(
        (0.5, 0.0), abs=EXACT
    )
