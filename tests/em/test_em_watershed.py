"""Labels → true affinities → segmentation must give the labels back, voxel by voxel."""

import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from psc.em import watershed as module
from psc.em.affinities import affinities_from_labels, intensity_affinities
from psc.em.labels import split_disconnected
from psc.em.settings import SCORING_FUNCTIONS, SegmentationConfig
from psc.em.watershed import (
    agglomerate,
    fragments_of,
    segment,
    silent_stdout,
    threshold_scores,
    voxel_affinities,
)
from psc.errors import ConfigError, DataError
from psc.metrics import segmentation_scores


def settings(**changes):
    nine = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    return SegmentationConfig(**{"scoring": "mean", "thresholds": nine} | changes)


def seeded_watershed(affinities, **options):
    return fragments_of(affinities, settings(**options))


def waterz_watershed(affinities, **options):
    return fragments_of(affinities, settings(fragments="waterz", **options))


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
        affinities = intensity_affinities(file["volumes/raw"][:40, :96, :96], 1.0)
        truth = file["volumes/labels/neuron_ids"][:40, :96, :96]

    def results():
        return seeded_watershed(affinities), *dict(segment(affinities, options)).values()

    options = settings()
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


def test_waterz_watershed_is_silent(capfd):
    waterz_watershed(random_affinities())
    assert capfd.readouterr() == ("", "")


THRESHOLDS = (0.05, 0.2, 0.8)


def three_fragments():
    """Slabs 1 | 2 | 3 along x; affinity 0.9 between the first two, 0.3 between the last two."""
    affinities = np.ones((3, 4, 4, 6), np.float32)
    affinities[2, :, :, 2], affinities[2, :, :, 4] = 0.9, 0.3
    fragments = np.broadcast_to(np.repeat([1, 2, 3], 2), (4, 4, 6)).astype(np.uint64)
    return affinities, fragments


@pytest.mark.parametrize("scoring", SCORING_FUNCTIONS)
def test_merges_where_one_minus_affinity_is_below_the_threshold(scoring):
    # All scoring functions agree on constant affinities, and none needs a compiler.
    affinities, fragments = three_fragments()
    result = dict(agglomerate(affinities, fragments, THRESHOLDS, scoring=scoring))
    assert list(result) == list(THRESHOLDS)
    np.testing.assert_array_equal(result[0.05], fragments)
    a, b, c = result[0.2][0, 0, [0, 2, 4]]
    assert a == b != c
    assert np.unique(result[0.8]).size == 1


def test_scoring_functions_see_different_affinities():
    # One high affinity among low ones: the published scoring starts from the highest.
    affinities = np.ones((3, 3, 3, 4), np.float32)
    affinities[2, :, :, 2] = 0.1
    affinities[2, 0, 0, 2] = 0.9
    fragments = np.broadcast_to([1, 1, 2, 2], (3, 3, 4)).astype(np.uint64)

    def segments(scoring):
        ((_, segmentation),) = agglomerate(affinities, fragments, [0.5], scoring=scoring)
        return np.unique(segmentation).size

    assert segments("aff50_his256") == 1
    assert segments("hist_quant_50") == 2
    assert segments("mean") == 2


def test_results_are_independent_and_arguments_untouched():
    affinities, fragments = three_fragments()
    affinities.flags.writeable = fragments.flags.writeable = False
    (_, first), (_, second), (_, third) = agglomerate(affinities, fragments, THRESHOLDS)
    assert [np.unique(s).size for s in (first, second, third)] == [3, 2, 1]
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(second, third)
    first[:] = 99
    assert 99 not in second


def test_changing_a_result_does_not_change_the_next():
    affinities, fragments = three_fragments()
    steps = agglomerate(affinities, fragments, THRESHOLDS)
    next(steps)[1][:] = 0
    assert np.unique(next(steps)[1]).size == 2


def test_sparse_ids_cost_no_memory_and_are_kept():
    affinities, fragments = three_fragments()
    sparse = fragments + np.uint64(2**60)  # would be a table of 2**60 entries
    for threshold, segmentation in agglomerate(affinities, sparse, THRESHOLDS):
        assert segmentation.dtype == np.uint64
        assert set(np.unique(segmentation)) <= set(np.unique(sparse)), threshold


def test_any_integer_dtype_and_memory_order():
    affinities, fragments = three_fragments()
    reordered = np.asfortranarray(fragments.astype(np.int32))
    for (_, a), (_, b) in zip(
        agglomerate(affinities, fragments, THRESHOLDS),
        agglomerate(np.asfortranarray(affinities), reordered, THRESHOLDS),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_background_stays_background():
    affinities, fragments = three_fragments()
    fragments[fragments == 2] = 0
    for _, segmentation in agglomerate(affinities, fragments, [0.1, 1.0]):
        np.testing.assert_array_equal(segmentation == 0, fragments == 0)


def test_thresholds_come_in_ascending_order_once_each():
    affinities, fragments = three_fragments()
    steps = agglomerate(affinities, fragments, [0.8, 0.05, 0.8, 0.2])
    assert [threshold for threshold, _ in steps] == [0.05, 0.2, 0.8]


def test_the_last_steps_need_not_be_taken():
    affinities, fragments = three_fragments()
    steps = agglomerate(affinities, fragments, THRESHOLDS)
    next(steps)
    steps.close()
    assert len(list(agglomerate(affinities, fragments, THRESHOLDS))) == 3


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_extreme_affinities(value):
    affinities, fragments = three_fragments()
    ((_, segmentation),) = agglomerate(np.full_like(affinities, value), fragments, [0.5])
    assert np.unique(segmentation).size == (3 if value == 0 else 1)


def test_standard_output_is_silent_during_and_usable_between(capfd):
    affinities, fragments = three_fragments()
    for threshold, _ in agglomerate(affinities, fragments, THRESHOLDS):
        print(threshold)
    assert capfd.readouterr() == ("0.05\n0.2\n0.8\n", "")


@pytest.mark.parametrize("thresholds", [[-0.1, 0.5], [0.5, 1.1], [float("nan")]])
def test_refuses_impossible_thresholds_at_the_call(thresholds):
    with pytest.raises(ConfigError, match="must lie in"):
        agglomerate(*three_fragments(), thresholds)


def test_refuses_no_threshold():
    with pytest.raises(ConfigError, match="at least one"):
        agglomerate(*three_fragments(), [])


def test_refuses_unknown_scoring_and_names_the_known():
    with pytest.raises(ConfigError, match=r"scoring=median.*aff50_his256"):
        agglomerate(*three_fragments(), [0.5], scoring="median")


def test_refuses_fragments_of_another_shape():
    affinities, fragments = three_fragments()
    with pytest.raises(DataError, match=r"\(4, 4, 6\), found \(4, 4, 5\)"):
        agglomerate(affinities, fragments[:, :, 1:], [0.5])


def test_refuses_affinities_with_nan():
    affinities, fragments = three_fragments()
    affinities[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="nan"):
        agglomerate(affinities, fragments, [0.5])


def test_refuses_fragments_that_are_no_integers():
    affinities, fragments = three_fragments()
    with pytest.raises(DataError, match="float64"):
        next(agglomerate(affinities, fragments.astype(float), [0.5]))


def test_a_machine_without_waterz_can_import_the_pipeline():
    program = """
import sys
sys.modules["waterz"] = None  # as if it were not installed
import psc.em.watershed
try:
    import waterz
except ImportError:
    print("pipeline without waterz")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "pipeline without waterz", result.stderr


def best(sweep):
    """Threshold and scores."""
    return min(sweep.items(), key=lambda item: (item[1].total, item[0]))


BOTH_FRAGMENTS = pytest.mark.parametrize("fragments", ["seeded", "waterz"])


@BOTH_FRAGMENTS
def test_pipeline_recovers_blobs(fragments, blobs, smooth_affinities):
    truth = blobs((36, 40, 44), 12)
    scoring = "aff50_his256" if fragments == "waterz" else "mean"
    options = settings(fragments=fragments, scoring=scoring)
    sweep = threshold_scores(smooth_affinities(truth), truth, options)
    assert best(sweep)[1].total < 0.2
    assert list(sweep) == options.thresholds


def test_scores_are_those_of_the_segmentations(blobs):
    # Without evidence of a boundary there is one segment: no split, and the truth's entropy lost.
    truth = blobs((12, 12, 12), 4)
    options = settings(thresholds=(0.3, 0.6))
    sweep = threshold_scores(np.ones((3, 12, 12, 12), np.float32), truth, options)
    share = np.bincount(truth.ravel())[1:] / truth.size
    entropy = -(share * np.log2(share)).sum()
    for score in sweep.values():
        assert score.split == pytest.approx(0)
        assert score.merge == pytest.approx(entropy)
        assert score.total == pytest.approx(entropy)
        assert 0 < score.adapted_rand_error < 1
    assert best(sweep)[0] == 0.3


def test_unknown_truth_is_not_scored(blobs, smooth_affinities):
    truth = blobs((24, 24, 24), 6)
    options = settings(thresholds=(0.5,))
    affinities = smooth_affinities(truth)
    affinities[:, :12] = 1  # nonsense where the truth is then unknown
    known = np.where(np.arange(24)[:, None, None] < 12, 0, truth)
    _, all_scored = best(threshold_scores(affinities, truth, options))
    assert best(threshold_scores(affinities, known, options))[1].merge < all_scored.merge / 2


def test_given_thresholds_replace_those_of_the_options(blobs, smooth_affinities):
    affinities = smooth_affinities(blobs((16, 16, 16), 4))
    options = settings(thresholds=(0.1, 0.2))
    assert [t for t, _ in segment(affinities, options)] == [0.1, 0.2]
    ((threshold, segmentation),) = segment(affinities, options, [0.7])
    assert threshold == 0.7
    assert segmentation.dtype == np.uint64
    assert (segmentation > 0).all()


def test_options_reach_the_watershed(blobs, smooth_affinities):
    affinities = smooth_affinities(blobs((16, 16, 16), 6))

    def segments(**options):
        ((_, segmentation),) = segment(affinities, settings(**options), [0.0])
        return np.unique(segmentation).size

    default = segments()
    assert default > 1
    assert segments(boundary_threshold=0.0) == 1  # nothing is boundary
    assert segments(minimum_seed_distance=15) < default
    assert segments(fragments="waterz", high=0.5) < segments(fragments="waterz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fragments": "mutex"}, "fragments=mutex"),
        ({"boundary_threshold": 2.0}, "boundary_threshold"),
        ({"boundary_threshold": float("nan")}, "boundary_threshold"),
        ({"seed_smoothing": -0.5}, "seed_smoothing"),
        ({"seed_smoothing": float("inf")}, "seed_smoothing"),
        ({"minimum_seed_distance": 0}, "minimum_seed_distance"),
        ({"low": 0.9, "high": 0.1}, "low=0.9, high=0.1"),
        ({"low": 0.5, "high": 0.5}, "low=0.5, high=0.5"),
        ({"low": -0.1, "high": 0.9}, "low=-0.1"),
        ({"low": 0.1, "high": 1.1}, "high=1.1"),
        ({"scoring": "median"}, "scoring=median"),
        ({"thresholds": ()}, "at least one"),
        ({"thresholds": (0.5, 1.5)}, "1.5"),
    ],
)
def test_refuses_impossible_options_at_once(options, message):
    with pytest.raises(ConfigError, match=message):
        settings(**options)


@BOTH_FRAGMENTS
def test_refuses_broken_volumes(fragments):
    options = settings(fragments=fragments)
    with pytest.raises(DataError, match="voxels in it"):
        segment(np.zeros((3, 0, 4, 4), np.float32), options)
    with pytest.raises(DataError, match="nan"):
        segment(np.full((3, 4, 4, 4), np.nan, np.float32), options)


def test_refuses_a_truth_of_another_shape():
    with pytest.raises(DataError, match="crop the truth"):
        threshold_scores(np.ones((3, 4, 4, 4), np.float32), np.ones((5, 4, 4), int), settings())


@BOTH_FRAGMENTS
def test_all_zero_affinities_do_not_crash(fragments, blobs):
    truth = blobs((8, 8, 8), 3)
    options = settings(fragments=fragments)
    sweep = threshold_scores(np.zeros((3, 8, 8, 8), np.float32), truth, options)
    # One object (seeded) or one per voxel (waterz), as documented.
    assert (best(sweep)[1].split == 0) == (fragments == "seeded")
    assert (best(sweep)[1].merge == 0) == (fragments == "waterz")


# Writes in all ways there are: Python, a handle kept from before (as logging does), the C library
# (which buffers through a pipe), and the kernel.
PROGRAM = """
import ctypes, os, sys
from psc.em.watershed import silent_stdout
libc = ctypes.CDLL(None)
print("before")
with silent_stdout():
    print("python")
    sys.__stdout__.write("handle")
    sys.__stdout__.flush()
    libc.printf(b"library")
    os.write(1, b"kernel")
print("after", flush=True)
libc.printf(b"library again")
libc.fflush(None)
"""


def test_nothing_comes_out_through_a_pipe_not_even_later():
    # PYTHONUNBUFFERED would also switch off the buffer of the C library, which is the trap.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "before\nafter\nlibrary again"
    assert result.stderr == ""


def test_output_is_restored_after_an_exception(capfd):
    def fail():
        with silent_stdout():
            os.write(1, b"lost")
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    print("python", flush=True)
    os.write(1, b"kernel")
    assert capfd.readouterr().out == "python\nkernel"


def test_stderr_is_not_touched(capfd):
    with silent_stdout():
        print("a warning", file=sys.stderr)
    assert capfd.readouterr().err == "a warning\n"


def open_descriptors():
    """Which of the first descriptors are in use."""
    used = set()
    for descriptor in range(256):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            used.add(descriptor)
    return used


def test_no_file_descriptor_leaks():
    with silent_stdout():
        pass
    before = open_descriptors()
    for _ in range(3):
        with silent_stdout():
            pass
    assert open_descriptors() == before


def assert_recovered(labels: np.ndarray, scoring: str) -> None:
    affinities, _ = affinities_from_labels(labels, zero_label="boundary")
    options = settings(fragments="waterz", scoring=scoring, thresholds=(0.1, 0.5, 0.9))
    for threshold, segmentation in segment(affinities, options):
        scores = segmentation_scores(labels, segmentation)
        assert scores.split == scores.merge == 0, threshold
        assert scores.predicted_segments == scores.truth_segments > 1


@pytest.mark.parametrize("scoring", ["mean", "aff50_his256", "hist_quant_50"])
@pytest.mark.parametrize(
    ("shape", "cells"), [((24, 20, 28), 15), ((1, 30, 31), 9), ((17, 5, 40), 60)]
)
def test_blobs(blobs, shape, cells, scoring):
    assert_recovered(blobs(shape, cells, seed=cells), scoring)


def test_blobs_with_background(blobs):
    labels = blobs((24, 24, 24), 20)
    labels[np.random.default_rng(0).random(labels.shape) < 0.1] = 0
    assert_recovered(split_disconnected(labels), "mean")


def test_perfect_affinities_and_seeds(blobs):
    # A flat boundary leaves a mean affinity of 5/6 at either side: the threshold must exceed it.
    labels = blobs((32, 32, 32), 8)
    affinities, _ = affinities_from_labels(labels, zero_label="boundary")
    options = settings(boundary_threshold=0.9, scoring="hist_quant_50")
    ((_, segmentation),) = segment(affinities, options, [0.5])
    scores = segmentation_scores(labels, segmentation)
    assert scores.total < 0.35
    assert scores.adapted_rand_error < 0.1


@pytest.mark.sample
@pytest.mark.skipif("PSC_SAMPLE_DATA" not in os.environ, reason="PSC_SAMPLE_DATA is not set")
def test_real_neurons():
    import h5py

    path = Path(os.environ["PSC_SAMPLE_DATA"]) / "em/fib25/training_sample2_z000-207.h5"
    with h5py.File(path) as file:
        labels = split_disconnected(file["volumes/labels/neuron_ids"][:64])
    assert_recovered(labels, "aff50_his256")
