"""The contingency table against hand and brute-force counts, in every layout labels come in."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from psc.errors import DataError
from psc.metrics import contingency, contingency_table


def as_dict(table):
    pairs = zip(table.truth_ids.tolist(), table.predicted_ids.tolist(), strict=True)
    return dict(zip(pairs, table.counts.tolist(), strict=True))


def brute_force(truth, predicted, ignore_truth=(0,), ignore_predicted=()):
    pairs = zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True)
    counts = Counter(pairs)
    return {
        (t, p): count
        for (t, p), count in counts.items()
        if t not in ignore_truth and p not in ignore_predicted
    }


def test_hand_counted():
    truth = np.array([[0, 1, 1, 2], [2, 2, 1, 1]])
    predicted = np.array([[5, 5, 0, 0], [0, 7, 5, 5]])

    table = contingency_table(truth, predicted)

    assert table.truth_ids.tolist() == [1, 1, 2, 2]
    assert table.predicted_ids.tolist() == [0, 5, 0, 7]
    assert table.counts.tolist() == [1, 3, 2, 1]
    assert (table.truth_ids.dtype, table.predicted_ids.dtype) == (np.uint64, np.uint64)
    assert table.counts.dtype == np.int64
    assert table.voxels == 7


def test_sizes_belong_to_the_pairs():
    table = contingency_table(np.array([1, 1, 2, 2, 2]), np.array([9, 4, 4, 4, 9]))

    truth_sizes, truth_index = table.truth_sizes()
    predicted_sizes, predicted_index = table.predicted_sizes()

    assert truth_sizes[truth_index].tolist() == [2, 2, 3, 3]  # pairs 1/4, 1/9, 2/4, 2/9
    assert predicted_sizes[predicted_index].tolist() == [3, 2, 3, 2]
    assert truth_sizes.tolist() == [2, 3]
    assert predicted_sizes.tolist() == [3, 2]


@pytest.fixture(scope="module", params=[contingency._PIECE, 3])
def _piece(request):
    """Also so small that volumes are converted in several pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contingency, "_PIECE", request.param)
        yield


DTYPES = [(np.uint64, np.uint64), (np.int64, np.uint16), (np.int32, np.uint8)]


@settings(deadline=None, max_examples=30)
@given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.usefixtures("_piece")
def test_equals_brute_force_in_any_memory_order(dtypes, data, shape):
    labels = [
        data.draw(hnp.arrays(dtype, shape, elements=st.integers(0, 4)), label=name)
        for dtype, name in zip(dtypes, ("truth", "predicted"), strict=True)
    ]
    layouts = {
        "as it is": lambda a: a,
        "Fortran": np.asfortranarray,
        "reversed axis": lambda a: np.ascontiguousarray(a[::-1])[::-1],
        "every other voxel of a larger array": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    }
    truth, predicted = (layouts[data.draw(st.sampled_from(sorted(layouts)))](a) for a in labels)
    ignore_truth = data.draw(st.sets(st.integers(0, 4), max_size=2), label="ignore_truth")
    ignore_predicted = data.draw(st.sets(st.integers(0, 4), max_size=2), label="ignore_predicted")
    expected = brute_force(truth, predicted, ignore_truth, ignore_predicted)
    ignored = {
        "ignore_truth": tuple(ignore_truth),
        "ignore_predicted": tuple(ignore_predicted),
    }

    if expected:
        assert as_dict(contingency_table(truth, predicted, **ignored)) == expected
    else:
        with pytest.raises(DataError, match="nothing to compare"):
            contingency_table(truth, predicted, **ignored)


@pytest.mark.parametrize("voxels", [4095, 4096, 4097, 3 * 4096 + 1])
def test_one_run_across_chunks_is_one_pair(voxels):
    table = contingency_table(np.full(voxels, 3), np.full(voxels, 8))

    assert as_dict(table) == {(3, 8): voxels}


def test_more_pairs_than_the_first_hash_table_holds():
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 400, 500_000, dtype=np.uint64)
    predicted = rng.integers(0, 700, 500_000, dtype=np.uint64)
    codes, counts = np.unique(truth * np.uint64(700) + predicted, return_counts=True)
    assert codes.size > 200_000

    table = contingency_table(truth, predicted)

    assert np.array_equal(table.truth_ids * np.uint64(700) + table.predicted_ids, codes)
    assert np.array_equal(table.counts, counts)


@pytest.mark.parametrize("shift", [0, 20, 50])
def test_ids_that_differ_in_some_bits_only(shift):
    rng = np.random.default_rng(1)
    truth = rng.integers(1, 2**13, 100_000, dtype=np.uint64)
    predicted = rng.integers(0, 3, 100_000, dtype=np.uint64)
    dense = contingency_table(truth, predicted)

    shifted = contingency_table(truth << np.uint64(shift), predicted << np.uint64(shift))

    assert np.array_equal(shifted.truth_ids, dense.truth_ids << np.uint64(shift))
    assert np.array_equal(shifted.predicted_ids, dense.predicted_ids << np.uint64(shift))
    assert np.array_equal(shifted.counts, dense.counts)


def test_largest_id_is_counted_and_can_be_ignored():
    largest = 2**64 - 1
    truth = np.array([largest, largest, 1], dtype=np.uint64)
    predicted = np.array([largest - 1, largest, largest], dtype=np.uint64)

    assert as_dict(contingency_table(truth, predicted)) == {
        (largest, largest - 1): 1,
        (largest, largest): 1,
        (1, largest): 1,
    }
    assert as_dict(contingency_table(truth, predicted, ignore_predicted=(largest,))) == {
        (largest, largest - 1): 1
    }


def test_big_endian_and_read_only_labels():
    truth = np.array([[1, 1], [2, 0]], dtype=">u8")  # as some HDF5 files hold them
    predicted = np.array([[3, 3], [3, 4]], dtype=np.uint64)
    predicted.setflags(write=False)

    assert as_dict(contingency_table(truth, predicted)) == {(1, 3): 2, (2, 3): 1}


def test_labels_that_lie_across_words():
    packed = np.zeros((2, 3), dtype=[("kind", np.uint8), ("id", np.uint64)])  # nothing is aligned
    packed["id"] = [[2**60, 1, 1], [0, 2**60, 1]]
    assert not packed["id"].flags.aligned

    table = contingency_table(packed["id"], packed["id"])

    assert as_dict(table) == {(1, 1): 3, (2**60, 2**60): 2}


def test_inputs_are_left_as_they_are():
    truth = np.arange(24).reshape(2, 3, 4)
    predicted = np.asfortranarray(truth[::-1])
    before = truth.copy(), predicted.copy()

    contingency_table(truth, predicted)

    assert np.array_equal(truth, before[0])
    assert np.array_equal(predicted, before[1])


ONES = np.ones((2, 3), dtype=np.int64)


@pytest.mark.parametrize(
    ("truth", "predicted", "ignored", "message"),
    [
        (ONES, np.ones((3, 2), int), {}, r"truth has shape \(2, 3\), predicted \(3, 2\)"),
        (ONES, ONES.astype(float), {}, "predicted must hold integer labels, found dtype float64"),
        (ONES == 1, ONES, {}, "truth must hold integer labels, found dtype bool"),
        (np.ones((1, 1, 1, 1), int), ONES, {}, r"three axes, found shape \(1, 1, 1, 1\)"),
        (np.int64(3), np.int64(3), {}, r"truth must have one to three axes, found shape \(\)"),
        (ONES[:0], ONES[:0], {}, r"truth is empty: shape \(0, 3\)"),
        (ONES, ONES - 4, {}, "predicted holds negative labels, the lowest is -3"),
        (ONES - 2, ONES, {"ignore_truth": ()}, "truth holds negative labels, the lowest is -1"),
        (ONES - 1, ONES, {}, r"nothing to compare: each of the 6 voxels .* in \(0,\)"),
        (ONES, ONES, {"ignore_predicted": (1,)}, "nothing to compare"),
        (ONES, ONES, {"ignore_truth": (0, -1)}, r"ignore_truth must hold .* found \[-1\]"),
        (ONES, ONES, {"ignore_predicted": (2**64,)}, "ignore_predicted must hold labels from 0"),
    ],
)
def test_refusals_name_what_was_found(truth, predicted, ignored, message):
    with pytest.raises(DataError, match=message):
        contingency_table(truth, predicted, **ignored)
