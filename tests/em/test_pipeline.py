import numpy as np
import pytest

from psc.em.settings import SegmentationOptions
from psc.em.watershed import ThresholdScore, ThresholdSweep, choose_threshold, segment
from psc.errors import ConfigError, DataError

BOTH = pytest.mark.parametrize("fragments", ["seeded", "waterz"])


@BOTH
def test_pipeline_recovers_blobs(fragments, blobs, smooth_affinities):
    truth = blobs((36, 40, 44), 12)
    scoring = "aff50_his256" if fragments == "waterz" else "mean"
    options = SegmentationOptions(fragments=fragments, scoring=scoring)
    sweep = choose_threshold(smooth_affinities(truth), truth, options)
    assert sweep.best.total < 0.2
    assert [score.threshold for score in sweep.scores] == list(options.thresholds)


def test_best_is_the_lowest_total_and_of_equals_the_lowest_threshold():
    def score(threshold, split, merge):
        return ThresholdScore(threshold, split, merge, split + merge, 0.5)

    table = (score(0.1, 1, 0), score(0.2, 0.25, 0.25), score(0.3, 0.5, 0), score(0.4, 0, 1))
    assert ThresholdSweep(table).best.threshold == 0.2
    assert ThresholdSweep(table[::-1]).best.threshold == 0.2


def test_scores_are_those_of_the_segmentations(blobs):
    # Without evidence of a boundary there is one segment: no split, and the truth's entropy lost.
    truth = blobs((12, 12, 12), 4)
    options = SegmentationOptions(thresholds=(0.3, 0.6))
    sweep = choose_threshold(np.ones((3, 12, 12, 12), np.float32), truth, options)
    share = np.bincount(truth.ravel())[1:] / truth.size
    entropy = -(share * np.log2(share)).sum()
    for score in sweep.scores:
        assert score.split == pytest.approx(0)
        assert score.merge == pytest.approx(entropy)
        assert score.total == pytest.approx(entropy)
        assert 0 < score.adapted_rand_error < 1
    assert sweep.best.threshold == 0.3


def test_unknown_truth_is_not_scored(blobs, smooth_affinities):
    truth = blobs((24, 24, 24), 6)
    options = SegmentationOptions(thresholds=(0.5,))
    affinities = smooth_affinities(truth)
    affinities[:, :12] = 1  # nonsense where the truth is then unknown
    known = np.where(np.arange(24)[:, None, None] < 12, 0, truth)
    all_scored = choose_threshold(affinities, truth, options).best
    assert choose_threshold(affinities, known, options).best.merge < all_scored.merge / 2


def test_given_thresholds_replace_those_of_the_options(blobs, smooth_affinities):
    affinities = smooth_affinities(blobs((16, 16, 16), 4))
    options = SegmentationOptions(thresholds=(0.1, 0.2))
    assert [t for t, _ in segment(affinities, options)] == [0.1, 0.2]
    ((threshold, segmentation),) = segment(affinities, options, [0.7])
    assert threshold == 0.7
    assert segmentation.dtype == np.uint64
    assert (segmentation > 0).all()


def test_options_reach_the_watershed(blobs, smooth_affinities):
    affinities = smooth_affinities(blobs((16, 16, 16), 6))

    def segments(**options):
        ((_, segmentation),) = segment(affinities, SegmentationOptions(**options), [0.0])
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
        ({"seed_smoothing": -0.5}, "seed_smoothing"),
        ({"minimum_seed_distance": 0}, "minimum_seed_distance"),
        ({"low": 0.9, "high": 0.1}, "low=0.9, high=0.1"),
        ({"scoring": "median"}, "scoring=median"),
        ({"thresholds": ()}, "at least one"),
        ({"thresholds": (0.5, 1.5)}, "1.5"),
    ],
)
def test_refuses_impossible_options_at_once(options, message):
    with pytest.raises(ConfigError, match=message):
        SegmentationOptions(**options)


@BOTH
def test_refuses_broken_volumes(fragments):
    options = SegmentationOptions(fragments=fragments)
    with pytest.raises(DataError, match="voxels in it"):
        segment(np.zeros((3, 0, 4, 4), np.float32), options)
    with pytest.raises(DataError, match="nan"):
        segment(np.full((3, 4, 4, 4), np.nan, np.float32), options)


def test_refuses_a_truth_of_another_shape():
    with pytest.raises(DataError, match="crop the truth"):
        choose_threshold(
            np.ones((3, 4, 4, 4), np.float32), np.ones((5, 4, 4), int), SegmentationOptions()
        )


@BOTH
def test_all_zero_affinities_do_not_crash(fragments, blobs):
    truth = blobs((8, 8, 8), 3)
    options = SegmentationOptions(fragments=fragments)
    sweep = choose_threshold(np.zeros((3, 8, 8, 8), np.float32), truth, options)
    # One object (seeded) or one per voxel (waterz), as documented.
    assert (sweep.best.split == 0) == (fragments == "seeded")
    assert (sweep.best.merge == 0) == (fragments == "waterz")
