import numpy as np
import pytest

from psc.em.labels import split_disconnected
from psc.em.synthetic import grow_neuropil, smooth_field


@pytest.fixture(scope="module")
def neuropil():
    return grow_neuropil((96, 80, 88), np.random.default_rng(4))


def test_bodies_are_dense_and_connected(neuropil):
    labels = neuropil.labels
    assert labels.shape == (96, 80, 88)
    assert labels.dtype == np.int32
    assert np.unique(labels).tolist() == list(range(1, labels.max() + 1))
    assert split_disconnected(labels).max() == labels.max()


def test_calibres_differ_widely(neuropil):
    sizes = np.bincount(neuropil.labels.reshape(-1))[1:]
    assert 20 < sizes.size < 200
    assert sizes.min() >= 50  # no specks, which no reconstruction could get right
    assert sizes.max() > 20 * np.median(sizes)


def test_bodies_are_long(neuropil):
    """A ball of n voxels reaches 1.24 n^(1/3) across; processes reach much further."""
    labels = neuropil.labels
    extents = []
    for label in range(1, labels.max() + 1):
        where = np.argwhere(labels == label)
        extents.append(np.ptp(where, axis=0).max() / (1.24 * len(where) ** (1 / 3)))
    assert np.median(extents) > 1.3


def test_mitochondria_lie_inside_bodies(neuropil):
    inside = neuropil.mitochondria < 0
    assert 0.005 < inside.mean() < 0.15
    assert neuropil.mitochondria.max() == 4
    border = np.zeros(inside.shape, bool)
    for axis in range(3):
        change = np.diff(neuropil.labels, axis=axis) != 0
        border[(*[slice(None)] * axis, slice(1, None))] |= change
    assert border[inside].mean() < 0.25 * border.mean()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 40, 3), (30, 30, 30)])
def test_any_shape(shape):
    labels = grow_neuropil(shape, np.random.default_rng(0)).labels
    assert labels.shape == shape
    assert labels.min() == 1


def test_even_small_blocks_hold_several_bodies():
    for seed in range(3):
        assert grow_neuropil((40, 40, 40), np.random.default_rng(seed)).labels.max() >= 5


class TestSmoothField:
    def test_standard_deviation_and_dtype(self):
        field = smooth_field((60, 70, 80), 3, np.random.default_rng(0))
        assert field.shape == (60, 70, 80)
        assert field.dtype == np.float32
        assert field.std() == pytest.approx(1, abs=0.05)
        assert field.mean() == pytest.approx(0, abs=0.1)

    @pytest.mark.parametrize("scale", [2, 5])
    def test_correlation_length(self, scale):
        field = smooth_field((150, 150, 150), scale, np.random.default_rng(0))
        for axis in range(3):
            lines = np.moveaxis(field, axis, 0)
            apart = lines[2 * scale :].reshape(-1), lines[: -2 * scale].reshape(-1)
            # of noise under a Gaussian kernel: exp(−d² / 4 scale²), d = 2 scale
            assert np.corrcoef(*apart)[0, 1] == pytest.approx(np.exp(-1), abs=0.05)
