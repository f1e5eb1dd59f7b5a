import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psc.errors import DataError
from psc.volumes.reading import bodies_from_supervoxels

STACK = np.array([[[0, 7], [7, 90]]], dtype=np.int32)


def test_every_supervoxel_becomes_its_body():
    transforms = np.array([[90, 5], [7, 2**63], [1, 1]], dtype=np.uint64)
    bodies = bodies_from_supervoxels(STACK, transforms, "f")
    assert bodies.dtype == np.uint64
    np.testing.assert_array_equal(bodies, np.array([[[0, 2**63], [2**63, 5]]], dtype=np.uint64))


@given(
    st.dictionaries(st.integers(1, 50), st.integers(0, 2**62), min_size=1, max_size=20),
    st.integers(0, 2**32),
)
def test_as_a_dictionary_would(table, seed):
    rng = np.random.default_rng(seed)
    stack = rng.choice([0, *table], size=(2, 3, 4))
    rows = np.array(list(table.items()), dtype=np.int64)
    rows = np.concatenate([rows, rows[:1]])  # a repeated row says nothing new
    expected = np.vectorize({0: 0, **table}.get)(stack)
    np.testing.assert_array_equal(bodies_from_supervoxels(stack, rows, "f"), expected)


def test_supervoxels_without_body_are_listed():
    with pytest.raises(DataError, match=r"f: 2 supervoxels have no body: 7, 90;"):
        bodies_from_supervoxels(STACK, np.array([[1, 1]]), "f")
    many = np.arange(1, 31, dtype=np.int64).reshape(2, 3, 5)
    with pytest.raises(DataError, match=r"29 supervoxels .*: 2, 3, .*, 11, …;"):
        bodies_from_supervoxels(many, np.array([[1, 1]]), "f")


def test_a_supervoxel_with_two_bodies():
    with pytest.raises(DataError, match="two bodies: 7;"):
        bodies_from_supervoxels(STACK, np.array([[7, 1], [90, 2], [7, 3]]), "f")


@pytest.mark.parametrize(
    ("transforms", "problem"),
    [
        (np.zeros((3, 3), int), r"integer rows.*\(3, 3\)"),
        (np.zeros(4, int), "integer rows"),
        (np.zeros((3, 2)), "float64"),
        (np.array([[7, -1], [90, 1]]), "negative id -1"),
    ],
)
def test_maps_that_are_none(transforms, problem):
    with pytest.raises(DataError, match=problem):
        bodies_from_supervoxels(STACK, transforms, "f")
