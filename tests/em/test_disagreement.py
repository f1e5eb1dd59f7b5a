import os
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest

from psc.em.pictures import Region, disagreement, worst_regions, worst_slice
from psc.errors import ConfigError, DataError
from psc.metrics import variation_of_information


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((300,), np.uint8), ((17, 23), np.int64), ((9, 10, 11), np.uint64)],
)
def test_the_maps_average_to_variation_of_information(shape: tuple[int, ...], dtype: type):
    rng = np.random.default_rng(len(shape))
    truth = rng.integers(0, 6, shape).astype(dtype)
    predicted = np.where(rng.random(shape) < 0.3, rng.integers(0, 9, shape), truth).astype(dtype)
    if dtype is np.uint64:
        truth[truth == 5] = 2**64 - 1
    found = disagreement(truth, predicted)
    vi = variation_of_information(truth, predicted)
    np.testing.assert_array_equal(found.known, truth != 0)
    assert found.split[found.known].mean(dtype=np.float64) == pytest.approx(vi.split, rel=1e-6)
    assert found.merge[found.known].mean(dtype=np.float64) == pytest.approx(vi.merge, rel=1e-6)
    assert (found.vi_split, found.vi_merge) == pytest.approx((vi.split, vi.merge), rel=1e-6)
    assert not found.total[truth == 0].any()
    assert found.split.dtype == found.merge.dtype == np.float32
    assert found.split.shape == found.merge.shape == shape


def test_a_split_and_a_merge_by_hand():
    truth = np.array([1, 1, 1, 1, 2, 2, 3, 3, 0])
    predicted = np.array([7, 7, 7, 5, 2, 2, 2, 2, 2])
    found = disagreement(truth, predicted)
    # 1 was cut 3:1, so its parts cost log2(4/3) and log2(4) bits; 2 and 3 became one, 1 bit each.
    cheap = np.log2(4 / 3)
    np.testing.assert_allclose(found.split, [cheap, cheap, cheap, 2, 0, 0, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(found.merge, [0, 0, 0, 0, 1, 1, 1, 1, 0], rtol=1e-6)


def test_a_perfect_prediction_has_none():
    truth = np.random.default_rng(0).integers(0, 5, (6, 7, 8))
    found = disagreement(truth, np.where(truth > 0, 10 - truth, 0))
    assert not found.total.any()
    assert worst_regions(found.total, (2, 2, 2), 3) == []


def test_wrong_labels_are_refused():
    with pytest.raises(DataError, match="shape"):
        disagreement(np.ones((2, 2), np.int32), np.ones((3, 2), np.int32))
    with pytest.raises(DataError, match="nothing to compare"):
        disagreement(np.zeros((2, 2), np.int32), np.ones((2, 2), np.int32))


def slow_worst_regions(bits: np.ndarray, size: tuple[int, ...], count: int) -> list[Region]:
    starts = list(product(*(range(n - s + 1) for n, s in zip(bits.shape, size, strict=True))))
    regions: list[Region] = []
    for _ in range(count):
        boxes = [
            Region(start, tuple(a + s for a, s in zip(start, size, strict=True)), 0.0)
            for start in starts
        ]
        boxes = [
            box
            for box in boxes
            if not any(
                all(
                    a < d and c < b
                    for a, b, c, d in zip(box.start, box.stop, r.start, r.stop, strict=True)
                )
                for r in regions
            )
        ]
        if not boxes:
            break
        best = max(boxes, key=lambda box: bits[box.slices].sum())
        regions.append(Region(best.start, best.stop, float(bits[best.slices].sum())))
    return regions


@pytest.mark.parametrize(
    ("shape", "size"),
    [((40,), (6,)), ((12, 15), (4, 5)), ((7, 8, 6), (3, 2, 4)), ((5, 6), (5, 2)), ((3, 3), (1, 1))],
)
def test_worst_regions_equal_an_exhaustive_search(shape: tuple[int, ...], size: tuple[int, ...]):
    bits = np.random.default_rng(7).exponential(size=shape).astype(np.float32)
    found = worst_regions(bits, size, 4)
    expected = slow_worst_regions(bits.astype(np.float64), size, 4)
    assert [(r.start, r.stop) for r in found] == [(r.start, r.stop) for r in expected]
    assert [r.bits for r in found] == pytest.approx([r.bits for r in expected])


def test_worst_regions_find_the_planted_errors_and_nothing_else():
    bits = np.zeros((50, 50), dtype=np.float32)
    bits[10:13, 40:44] = 3
    bits[30:36, 5:7] = 5
    found = worst_regions(bits, (8, 8), 5)
    assert [r.bits for r in found] == [60, 36]
    assert bits[found[0].slices].sum() == bits[30:36, 5:7].sum()
    assert bits[found[1].slices].sum() == bits[10:13, 40:44].sum()


def test_a_box_larger_than_the_array_is_cut_to_it():
    assert worst_regions(np.ones((4, 3)), (9, 2), 1) == [Region((0, 0), (4, 2), 8.0)]


@pytest.mark.parametrize(
    ("size", "count", "match"),
    [((3,), 1, "2 extents"), ((3, 0), 1, "at least 1"), ((3, 3), 0, "count")],
)
def test_impossible_requests_are_refused(size: tuple[int, ...], count: int, match: str):
    with pytest.raises(ConfigError, match=match):
        worst_regions(np.ones((5, 5)), size, count)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_impossible_bits_are_refused(bad: float):
    with pytest.raises(DataError, match="finite"):
        worst_regions(np.array([[1.0, bad]]), (1, 1), 1)


def test_worst_slice_is_the_one_with_the_largest_sum():
    bits = np.zeros((4, 3, 3), dtype=np.float32)
    bits[1, 0, 0] = 5
    bits[2] = 1
    assert worst_slice(bits) == 2
    with pytest.raises(DataError, match=r"\(D, H, W\)"):
        worst_slice(bits[0])


@pytest.mark.sample
def test_maps_of_a_published_segmentation_average_to_its_known_vi():
    folder = os.environ.get("PSC_SAMPLE_DATA")
    if not folder:
        pytest.skip("PSC_SAMPLE_DATA is not set")
    em = Path(folder) / "em"
    with h5py.File(em / "fib25/training_sample2_z000-207.h5") as file:
        truth = file["volumes/labels/neuron_ids"][166:208]
    predicted = np.load(em / "ffn_result/sample-training2.npz")["segmentation"][166:208]
    found = disagreement(truth, predicted)
    # Measured with scikit-image's variation_of_information, 0 as one predicted segment.
    assert (found.vi_split, found.vi_merge) == pytest.approx((0.62147, 0.53153), abs=1e-5)
