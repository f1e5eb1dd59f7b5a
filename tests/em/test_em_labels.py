import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from psc.em.labels import relabel_consecutive, split_disconnected
from psc.errors import DataError

SMALL_VOLUMES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)
SPARSE_IDS = st.sampled_from([0, 1, 2, 7, 2**31, 2**32, 2**63 + 5, 2**64 - 1])


def first_appearance(labels):
    """Reference: dictionary over the voxels."""
    new_ids = {0: 0}
    return [new_ids.setdefault(int(label), len(new_ids)) for label in labels.ravel()], new_ids


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint64, SMALL_VOLUMES, elements=SPARSE_IDS))
def test_relabels_in_order_of_first_appearance(labels):
    relabelled, original_ids = relabel_consecutive(labels)

    expected, new_ids = first_appearance(labels)
    np.testing.assert_array_equal(relabelled.ravel(), expected)
    assert original_ids.tolist() == list(new_ids)
    assert relabelled.dtype == np.int32
    assert relabelled.shape == labels.shape
    assert original_ids.dtype == np.uint64


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "uint64", ">u4"])
def test_takes_any_integer_dtype(dtype):
    labels = np.array([[5, 5, 0], [9, 5, 1]], dtype=dtype)
    relabelled, original_ids = relabel_consecutive(labels)
    assert relabelled.tolist() == [[1, 1, 0], [2, 1, 3]]
    assert original_ids.tolist() == [0, 5, 9, 1]


def test_table_grows_with_many_sparse_ids():
    # Far more ids than the first table has slots, and all different in the high bits only.
    generator = np.random.default_rng(0)
    ids = generator.choice(2**40, 20_000, replace=False).astype(np.uint64) << np.uint64(20)
    labels = generator.choice(ids, (40, 50, 60))
    relabelled, original_ids = relabel_consecutive(labels)
    np.testing.assert_array_equal(original_ids[relabelled], labels)
    assert original_ids.size == np.unique(labels).size + (0 not in labels)


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((2, 3, 4), np.uint64),  # background only
        np.zeros((0, 3, 4), np.uint64),  # no voxel
        np.arange(24, dtype=np.uint64).reshape(2, 3, 4).T,  # Fortran order
        np.arange(48, dtype=np.uint64).reshape(2, 3, 8)[:, :, ::-2],  # strided
    ],
    ids=["zeros", "empty", "fortran", "strided"],
)
def test_unusual_arrays(labels):
    relabelled, original_ids = relabel_consecutive(labels)
    np.testing.assert_array_equal(original_ids[relabelled], labels)
    assert relabelled.flags.c_contiguous


def test_input_may_be_a_read_only_memmap(tmp_path):
    np.save(tmp_path / "labels.npy", np.array([4, 4, 8]))
    labels = np.load(tmp_path / "labels.npy", mmap_mode="r")
    relabelled, _ = relabel_consecutive(labels)
    assert relabelled.tolist() == [1, 1, 2]
    assert labels.tolist() == [4, 4, 8]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1.0, 2.0]), "float64"),
        (np.array([True, False]), "bool"),
        (np.array([3, -2, 1]), "found -2"),
    ],
)
def test_refuses_what_are_no_labels(labels, message):
    with pytest.raises(DataError, match=message):
        relabel_consecutive(labels)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint64, SMALL_VOLUMES, elements=st.sampled_from([0, 3, 2**63 + 1])))
def test_split_gives_each_connected_piece_its_own_id(labels):
    pieces = split_disconnected(labels)

    np.testing.assert_array_equal(pieces == 0, labels == 0)
    total = 0
    for body in np.unique(labels[labels != 0]):
        # SciPy's default structure in 3D is the 6-neighbourhood.
        expected, count = ndimage.label(labels == body)
        inside = expected > 0
        pairs = np.unique(np.stack([expected[inside], pieces[inside]]), axis=1)
        assert pairs.shape[1] == count == np.unique(pieces[inside]).size
        total += count
    assert pieces.max() == total  # ids are dense and not shared between bodies
    assert pieces.dtype == np.int32


def test_split_neither_merges_bodies_that_touch_nor_connects_over_edges():
    labels = np.array([[[7, 7, 9], [9, 0, 7]]])
    assert split_disconnected(labels).tolist() == [[[1, 1, 2], [3, 0, 4]]]


def test_split_takes_slices_and_empty_volumes():
    assert split_disconnected(np.array([[1, 0, 1]])).tolist() == [[1, 0, 2]]
    assert split_disconnected(np.zeros((0, 2, 2), np.uint8)).shape == (0, 2, 2)


def test_split_refuses_other_dimensions():
    with pytest.raises(DataError, match=r"\(4,\)"):
        split_disconnected(np.ones(4, np.uint8))
