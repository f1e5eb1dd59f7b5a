import logging
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from psc.em import watershed as module
from psc.em.affinities import intensity_affinities
from psc.em.settings import SegmentationOptions
from psc.em.watershed import seeded_watershed, segment, voxel_affinities, waterz_watershed
from psc.errors import ConfigError, DataError
from psc.metrics import segmentation_scores

BOTH = pytest.mark.parametrize("watershed", [seeded_watershed, waterz_watershed])


@pytest.fixture
def without_bioimage_cpp(monkeypatch):
    """Makes the library look as if it were not installed."""

    def hide():
        monkeypatch.setitem(sys.modules, "bioimage_cpp", None)
        module._bioimage_cpp.cache_clear()

    yield hide
    module._bioimage_cpp.cache_clear()


def random_affinities(shape=(9, 10, 11), seed=0):
    return np.random.default_rng(seed).random((3, *shape), dtype=np.float32)


def test_seeded_watershed_recovers_blobs(blobs, smooth_affinities):
    truth = blobs((40, 44, 48), 12)
    fragments = seeded_watershed(smooth_affinities(truth), seed_smoothing=2.0)
    scores = segmentation_scores(truth, fragments)
    assert scores.merge < 0.1
    assert scores.split < 0.6  # a fragment too many here and there, which agglomeration merges
    assert scores.adapted_rand_error < 0.1


@pytest.mark.sample
@pytest.mark.skipif("PSC_SAMPLE_DATA" not in os.environ, reason="PSC_SAMPLE_DATA is not set")
def test_two_libraries_agree_about_real_neuropil(without_bioimage_cpp):
    # Both break ties in their own order, and one rounds heights to 65,536 levels. On these 64
    # sections that is 0.08 bits of VI between the fragments, and 0.00 to 0.20 bits (median 0.05)
    # between the segmentations at nine thresholds; the best of them is 1.977 bits from the truth
    # with either.
    path = Path(os.environ["PSC_SAMPLE_DATA"]) / "em/fib25/training_sample2_z000-207.h5"
    with h5py.File(path) as file:
        affinities = intensity_affinities(file["volumes/raw"][:64, :128, :128], 1.0)
        truth = file["volumes/labels/neuron_ids"][:64, :128, :128]

    def results():
        return seeded_watershed(affinities), *dict(segment(affinities, options)).values()

    options = SegmentationOptions()
    fast = results()
    without_bioimage_cpp()
    slow = results()
    assert fast[0].max() == slow[0].max()  # the seeds are the very same
    between = [segmentation_scores(a, b).total for a, b in zip(slow, fast, strict=True)]
    assert 0 < between[0] < 0.1
    assert np.median(between[1:]) < 0.07
    assert max(between) < 0.25
    best = [min(segmentation_scores(truth, s).total for s in side[1:]) for side in (slow, fast)]
    assert best[0] == pytest.approx(best[1], abs=0.01)


def test_without_the_library_it_works_and_says_once_that_it_is_slower(
    blobs, smooth_affinities, without_bioimage_cpp, caplog
):
    affinities = smooth_affinities(blobs((24, 24, 24), 8))
    fast = seeded_watershed(affinities)
    without_bioimage_cpp()
    with caplog.at_level(logging.WARNING):
        slow = [seeded_watershed(affinities) for _ in range(2)]
    assert [record.message.count("bioimage-cpp") > 0 for record in caplog.records] == [True]
    np.testing.assert_array_equal(*slow)
    assert segmentation_scores(slow[0], fast).total < 0.05


@BOTH
def test_every_voxel_gets_a_fragment_and_ids_are_dense(watershed):
    affinities = random_affinities()
    fragments = watershed(affinities)
    assert fragments.shape == affinities.shape[1:]
    assert fragments.dtype == np.uint64
    ids = np.unique(fragments)
    np.testing.assert_array_equal(ids, np.arange(1, ids.size + 1))
    assert ids.size > 1


@BOTH
def test_deterministic_and_input_untouched(watershed):
    affinities = random_affinities()
    before = affinities.copy()
    affinities.flags.writeable = False
    np.testing.assert_array_equal(watershed(affinities), watershed(affinities))
    np.testing.assert_array_equal(affinities, before)


@BOTH
@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 1, 1), (1, 1, 1)])
def test_thin_volumes(watershed, shape):
    assert (watershed(random_affinities(shape)) > 0).all()


@BOTH
def test_one_fragment_where_all_belongs_together(watershed):
    assert np.unique(watershed(np.ones((3, 5, 6, 7), np.float32))).tolist() == [1]


def test_without_any_interior_seeded_gives_one_fragment():
    assert np.unique(seeded_watershed(np.zeros((3, 5, 6, 7), np.float32))).tolist() == [1]


def test_background_of_waterz_becomes_single_voxels():
    affinities = np.zeros((3, 2, 2, 3), np.float32)
    assert np.unique(waterz_watershed(affinities)).size == 12
    affinities[2, 0, 0, 1] = 0.8  # joins voxels (0, 0, 0) and (0, 0, 1)
    fragments = waterz_watershed(affinities)
    assert fragments[0, 0, 0] == fragments[0, 0, 1]
    assert np.unique(fragments).size == 11


def test_high_threshold_joins_unconditionally():
    # Along x: strong, weaker, strong. The weaker edge separates, unless it is above high.
    affinities = np.zeros((3, 1, 1, 4), np.float32)
    affinities[2, 0, 0] = [0, 0.95, 0.9, 0.95]
    assert waterz_watershed(affinities).ravel().tolist() == [1, 1, 2, 2]
    assert waterz_watershed(affinities, high=0.85).ravel().tolist() == [1, 1, 1, 1]


def test_boundary_follows_the_lowest_affinities():
    # Two halves along y, separated by a dip at y = 5 that is two edges wide.
    affinities = np.ones((3, 6, 12, 6), np.float32)
    affinities[:, :, 5] = 0.1
    affinities[:, :, 6] = 0.2
    fragments = seeded_watershed(affinities)
    assert np.unique(fragments).tolist() == [1, 2]
    assert (fragments[:, :5] == fragments[0, 0, 0]).all()
    assert (fragments[:, 6:] == fragments[0, 11, 0]).all()
    assert fragments[0, 0, 0] != fragments[0, 11, 0]


def test_a_plateau_is_one_seed_also_where_its_voxels_touch_at_an_edge_only():
    affinities = np.zeros((3, 1, 8, 8), np.float32)
    for y, x in [(3, 3), (4, 4)]:  # all edges of these two voxels; their neighbours have half
        affinities[1, 0, [y, y + 1], x] = 1
        affinities[2, 0, y, [x, x + 1]] = 1
    assert seeded_watershed(affinities, seed_smoothing=0.0).max() == 1


def test_larger_smoothing_or_distance_gives_fewer_fragments(blobs, smooth_affinities):
    affinities = smooth_affinities(blobs((24, 24, 24), 30))
    noisy = np.clip(affinities + 0.6 * (random_affinities((24, 24, 24)) - 0.5), 0, 1)

    def count(**options):
        return seeded_watershed(noisy, **options).max()

    finest = count(seed_smoothing=0.0)
    assert count(seed_smoothing=1.0) < finest
    assert count(seed_smoothing=0.0, minimum_seed_distance=4) < finest


def test_voxel_affinities_average_the_edges_inside_the_volume():
    affinities = random_affinities((3, 4, 2))
    expected = np.empty((3, 4, 2))
    for v in np.ndindex(3, 4, 2):
        edges = []
        for axis in range(3):
            after = list(v)
            after[axis] += 1
            if v[axis] > 0:
                edges.append(affinities[(axis, *v)])
            if after[axis] < affinities.shape[axis + 1]:
                edges.append(affinities[(axis, *after)])
        expected[v] = np.mean(edges)
    np.testing.assert_allclose(voxel_affinities(affinities), expected, rtol=1e-6)


def test_first_planes_are_not_used():
    affinities = random_affinities()
    changed = affinities.copy()
    changed[0, 0], changed[1, :, 0], changed[2, :, :, 0] = 0, 1, 0.3
    np.testing.assert_array_equal(seeded_watershed(changed), seeded_watershed(affinities))
    np.testing.assert_array_equal(waterz_watershed(changed), waterz_watershed(affinities))


@BOTH
def test_refuses_what_are_no_affinities(watershed):
    with pytest.raises(DataError, match="nan"):
        watershed(np.full((3, 4, 4, 4), np.nan, np.float32))
    with pytest.raises(DataError, match=r"\(4, 4, 4\)"):
        watershed(np.zeros((4, 4, 4), np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {"boundary_threshold": 1.5},
        {"boundary_threshold": float("nan")},
        {"seed_smoothing": -1.0},
        {"seed_smoothing": float("inf")},
        {"minimum_seed_distance": 0},
    ],
)
def test_refuses_impossible_seed_options(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        seeded_watershed(random_affinities(), **options)


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (-0.1, 0.9), (0.1, 1.1)])
def test_refuses_impossible_watershed_options(low, high):
    with pytest.raises(ConfigError, match=f"low={low}, high={high}"):
        waterz_watershed(random_affinities(), low, high)


def test_waterz_watershed_is_silent(capfd):
    waterz_watershed(random_affinities())
    assert capfd.readouterr() == ("", "")
